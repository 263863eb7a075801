from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config.extractors import OF_NUMBERS, Extractor
from runner.scorers import extractors, numbers
from runner.scorers.numbers import find_gold_number, to_canonical_number
from runner.scorers.verdicts import judge_answer
from runner_base.result import Answer, FinishReason, Verdict

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
THIN, NARROW = "\N{THIN SPACE}", "\N{NARROW NO-BREAK SPACE}"
NUMBERS = st.one_of(st.integers(-(10**12), 10**12), st.decimals(-(10**9), 10**9, places=3))


def extract(text: str, extractor: Extractor) -> str | None:
    return extractors.extract_canonical_answer(text, numbers, extractor)


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("3*4=12\n#### 12", "12", "12"),
        ("#### 70,000", "70000", "70000"),
        ("#### -5", "-5", "-5"),
        ("#### \N{MINUS SIGN}5", "-5", "-5"),
        ("#### 3.50", "3.5", "3.5"),
        ("#### $1,234.50", "1234.5", "1234.5"),
        ("#### $ 18", "18", "18"),
        ("#### -$3", "-3", "-3"),
        ("#### **18**", "18", "18"),
        ("#### 18.", "18", "18"),
        ("#### .5", "0.5", "0.5"),
        ("#### -0", "0", "0"),
        ("#### 1000", "1000", "1000"),
        ("#### 12\n\nNext #### 13", "12", "13"),
        ("#### $\\boxed{18}$", "18", "18"),
        ("The answer is 70,000.", None, "70000"),
        ("So it is -5", None, "-5"),
        ("It costs $3.50 in all.", None, "3.5"),
        ("10-5", None, "5"),
        ("10 - 5 = 5", None, "5"),
        ("1,2,3", None, "3"),
        ("1.2.3", None, "1.2"),
        ("12,34,567 rupees", None, "1234567"),
        ("about 12kg", None, "12"),
        ("18 €", None, "18"),
        ("18%, that is all", None, "18"),
        ("US$18", None, "18"),
        ("USD18", None, "18"),
        ("-£3", None, "-3"),
        ("答案是18元", None, "18"),
        ("a half ½", None, "0.5"),
        ("1½ miles", None, "1.5"),
        ("1\\frac{1}{2}", None, "1.5"),
        ("$-\\frac{3}{4}$", None, "-0.75"),
        ("\\dfrac13", None, "1/3"),
        ("12 24/2", None, "12"),  # two numbers, not 12 and twelve halves
        ("on 3/4/2020", None, "2020"),
        ("5/0", None, "0"),
        ("$1.5 \\times 10^{3}$", None, "1500"),
        ("1.5×10³", None, "1500"),
        ("1.5e3 m", None, "1500"),
        ("18e5x", None, "18"),
        ("70{,}000", None, "70000"),
        ("5 100 dollar bills", None, "100"),
        ("70 000 people", None, "70000"),
        ("#### 5 100", "5100", "100"),
        ("so...18", None, "18"),
        ("apples.18 are left", None, "18"),
        ("call it x2", None, None),
        ("I do not know.", None, None),
        ("", None, None),
        ("####", None, None),
        ("#### none of the 3", None, "3"),
    ],
)
def test_strict_and_flexible(text: str, strict: str | None, flexible: str | None) -> None:
    assert extract(text, Extractor.strict) == strict
    assert extract(text, Extractor.flexible) == flexible


@pytest.mark.parametrize(
    ("text", "boxed", "the_answer_is"),
    [
        (r"\boxed{18}", "18", None),
        (r"\boxed{5} no, \boxed{\$70{,}000}", "70000", None),
        (r"\boxed{x = \frac{1}{3}} of 9", "1/3", None),
        (r"\boxed{18 \text{ apples}}", "18", None),
        (r"\boxed{18", None, None),  # cut off
        (r"\boxed{}", None, None),
        ("18", None, None),
        ("The answer is 18. Check: 9*2.", None, "18"),
        ("the ANSWER is: **$1,018**!", None, "1018"),
        ("The answer is 5. No, the answer is \\(6\\).", None, "6"),
        (r"The final answer is $\boxed{-7}$", "-7", "-7"),
        ("The answer is unknown, 18 at most", None, None),
        ("My answer isn't 5", None, None),
    ],
)
def test_boxed_and_the_answer_is(text: str, boxed: str | None, the_answer_is: str | None) -> None:
    assert extract(text, Extractor.boxed) == boxed
    assert extract(text, Extractor.the_answer_is) == the_answer_is


def test_a_cut_off_text_has_no_answer_unless_it_is_marked() -> None:
    def verdict(text: str, reason: FinishReason, extractor: Extractor = Extractor.strict) -> Verdict:
        return judge_answer(Answer(text, [], reason), "18").verdicts[extractor]

    stop, length, error = FinishReason.stop, FinishReason.length, FinishReason.error
    assert verdict("#### 18", length) is Verdict.correct
    assert verdict("#### 17", length) is Verdict.wrong
    assert verdict("it is 18", length) is Verdict.cut_off
    assert verdict("it is 18", stop) is Verdict.no_answer
    assert verdict("it is 18", length, Extractor.flexible) is Verdict.correct  # like lm-eval
    assert verdict("it is 17", length, Extractor.flexible) is Verdict.cut_off
    assert verdict("it is 17", stop, Extractor.flexible) is Verdict.wrong
    assert verdict("\\boxed{17} #", length, Extractor.boxed) is Verdict.wrong
    assert verdict("#### 17 so", length, Extractor.boxed) is Verdict.cut_off
    assert verdict("#### 18", error) is Verdict.cut_off


def notations(value: int | Decimal) -> list[str]:
    """Many ways to write the same number."""
    text, grouped, size = str(value), f"{value:,}", abs(value)
    minus, sign = ("-" if value < 0 else ""), ("\N{MINUS SIGN}" if value < 0 else "")
    digits = "".join(chr(ord("०") + int(one)) if one.isdigit() else one for one in text)
    return [
        text,
        digits,
        grouped,
        f"{sign}{size}",
        *(grouped.replace(",", mark) for mark in ("_", THIN, NARROW, "{,}", r"\,")),
        *(f"{minus}{mark}{size:,}" for mark in ("$", "€", "£", "¥", "USD ", r"\$")),
        *(f"{grouped}{mark}" for mark in ("$", " €", "%", " percent", " USD", " apples", "kg", ".")),
        f"**{grouped}**",
        f"\\({grouped}\\)",
    ]


@pytest.mark.thorough
@given(NUMBERS)
def test_a_number_is_read_however_it_is_written(value: int | Decimal) -> None:
    plain = to_canonical_number(str(value))
    assert Fraction(plain) == Fraction(value)
    for text in notations(value):
        assert extract(f"3*4=12\n#### {text}", Extractor.strict) == plain, text
        assert extract(f"the sum is {text}", Extractor.flexible) == plain, text
        assert extract(f"so \\boxed{{{text}}} it is", Extractor.boxed) == plain, text
        assert extract(f"The answer is {text}", Extractor.the_answer_is) == plain, text
    assert extract(f"#### {value:,}".replace(",", " "), Extractor.strict) == plain


@given(st.integers(-99, 999), st.integers(0, 10**6), st.integers(1, 10**6))
def test_fractions_are_exact(whole: int, top: int, bottom: int) -> None:
    expected = Fraction(top, bottom)
    assert Fraction(to_canonical_number(f"{top}/{bottom}")) == expected
    assert Fraction(to_canonical_number(rf"\frac{{{top}}}{{{bottom}}}")) == expected
    assert to_canonical_number(f"{top * 7}/{bottom * 7}") == to_canonical_number(f"{top}/{bottom}")
    if expected < 1:
        signed = Fraction(whole) + (expected if whole >= 0 else -expected)
        assert Fraction(to_canonical_number(f"{whole} {top}/{bottom}")) == signed


@given(st.decimals(0, 999, places=3), st.integers(-40, 40))
def test_scientific_notation_is_exact(mantissa: Decimal, power: int) -> None:
    expected = Fraction(mantissa) * Fraction(10) ** power
    for text in (
        f"{mantissa}e{power}",
        f"{mantissa}E{power:+}",
        f"{mantissa} × 10^{power}",
        f"{mantissa}*10^{{{power}}}",
    ):
        assert Fraction(to_canonical_number(text)) == expected


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    for number in extractors.extract_by_all_extractors(
        f"#### {text} \\boxed{{{text}}} answer is {text}", numbers
    ).values():
        assert number is None or to_canonical_number(number) == number


def test_numbers_of_any_length_are_compared_exactly() -> None:
    long = "1" + "0" * 5000 + "1"
    assert (
        extract(f"#### {long}", Extractor.strict) == long != extract(f"#### {long[:-1]}2", Extractor.strict)
    )
    assert to_canonical_number("0.1000000000000000000000000000000000001") != to_canonical_number("0.1")


# fmt: off
PIECES = [
    "9", "1,", "1,11", ",111", "111 ", "#### ", "*", "1/", "1/0", "-$", "$ ", "\\boxed{", "\\frac{1", "answer is ", ".",
    "1e", "1x10^", "1 x 10 ^ { ", f"111{NARROW}", "½", "१", "US", "1 1/2 ", "10³", "111_", "{", " ", "#",
]
# fmt: on


@pytest.mark.sampled(7)
@pytest.mark.parametrize("piece", PIECES)
def test_a_long_text_of_anything_ends(piece: str) -> None:
    """A pattern whose time grew with the square of the length would take many minutes here."""
    for head in ("", "####", "answer is"):
        assert set(
            extractors.extract_by_all_extractors(head + piece * (200_000 // len(piece)), numbers)
        ) == set(OF_NUMBERS)


def test_gold_answers() -> None:
    assert find_gold_number("1+1=2\n#### 2\n#### 3 apples") == "3"
    assert [find_gold_number(text) for text in ("12", " $70,000.0 ", "-5", "1/3", "8.0")] == [
        "12",
        "70000",
        "-5",
        "1/3",
        "8",
    ]
    for text in ("twelve", "12 apples", "#### twelve, or 12", ""):
        with pytest.raises(ValueError, match="a number .*'#### NUMBER'"):
            find_gold_number(text)
    with pytest.raises(ValueError, match="not a number: 'twelve'"):
        to_canonical_number("twelve")


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real GSM8K is not at {REAL}")
def test_every_gold_answer_of_gsm8k_parses() -> None:
    texts = [(REAL / f"{split}.jsonl").read_text() for split in ("train", "test")]
    answers = [json.loads(line)["answer"] for text in texts for line in text.splitlines()]
    assert len(answers) == 8792
    for answer in answers:
        # lm-eval's own rule for gold answers
        expected = answer.rsplit("#### ", 1)[1].replace(",", "")
        assert (
            find_gold_number(answer)
            == expected
            == extract(answer, Extractor.strict)
            == extract(answer, Extractor.flexible)
        )

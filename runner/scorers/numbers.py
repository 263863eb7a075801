"""Patterns for numbers in answers, and a canonical form in which numbers can be compared exactly.

A notation for the extractors. Currencies, fractions, scientific notation, other scripts and
LaTeX are read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

# Repetitions that could match the same characters are bounded: a megabyte of any text takes linear
# time.
_CURRENCY = r"(?:(?:US|CA|AU|NZ|HK|[CAS])?\$|[€£¥₹₩₽]|USD|EUR|GBP|JPY|CNY|RMB|INR|CAD|AUD|CHF|Rs\.?)"
_SIGN = rf"(?P<sign>(?:-\ ?)?{_CURRENCY}\s?-?|-)?"  # -5, -$3, $-3, USD 3
_FRACTION = r"""
    (?<![/.0-9]) (?:(?P<whole>[0-9]{1,3})\ )?            # 3/4, 1 1/2; of the date 3/4/2020 nothing is one
    (?P<top>[0-9]{1,30}) / (?P<bottom>0{0,9}[1-9][0-9]{0,29}) (?![0-9]|[./][0-9])
"""
_THIN = "\N{NARROW NO-BREAK SPACE}"  # replaces all spaces that can only separate thousands
_GROUPS = rf"""
    [0-9]{{1,3}} (?:(?:,[0-9]{{3}}){{1,12}} | (?:_[0-9]{{3}}){{1,12}} | (?:{_THIN}[0-9]{{3}}){{1,12}}) (?![0-9])
    | [0-9]{{1,2}} (?:,[0-9]{{2}}){{1,12}} ,[0-9]{{3}} (?![0-9])            # 12,34,567 in India
"""
_SPACED = r"[0-9]{1,3} (?:\ [0-9]{3}){1,12} (?![0-9])"  # 70 000, where a number is expected
# Within a text, 5 100 may be two numbers, but 70 000 is one: no number begins with a zero.
_SPACED_SURELY = r"[0-9]{1,3} (?:\ [0-9]{3}){0,6}? \ 0[0-9]{2} (?:\ [0-9]{3}){0,6} (?![0-9])"
_EXPONENT = r"""
    (?:[eE](?P<e>[+-]?[0-9]{1,3})(?![0-9A-Za-z]) | \s?[×x*]\s?10\s?\^\s?\{?\s?(?P<ten>[+-]?[0-9]{1,3})\s?\}?(?![0-9]))?
"""


def _build_number_pattern(spaced_thousands_pattern: str) -> str:
    plain = (
        rf"(?:(?P<digits>{_GROUPS} | {spaced_thousands_pattern} | [0-9]+) "
        rf"(?:\.(?P<rest>[0-9]+))? | (?<!\.)\.(?P<only>[0-9]+))"
    )
    return rf"{_SIGN} (?:{_FRACTION} | {plain} {_EXPONENT})"


_GLUE = r"(?:\\f?boxed\{|[\s*_`$\\(\[{~≈=:+])*"  # between the words and the number: **18**, \(18\), = 18
_AFTER = rf"{_GLUE} (?:{_build_number_pattern(_SPACED)})"
MARKED = re.compile(rf"\#\#\#\#{_AFTER}", re.VERBOSE)
SAID = re.compile(rf"\banswer\s+is\b{_AFTER}", re.VERBOSE | re.IGNORECASE)
_ALONE = re.compile(_build_number_pattern(_SPACED), re.VERBOSE)
# In 10-5 the hyphen is not a sign; in x2 the 2 is not a number, and neither is the 3 in 1.2.3.
WITHIN = re.compile(
    rf"(?<![A-Za-z0-9_]) (?<![0-9]\.) (?:{_build_number_pattern(_SPACED_SURELY)})", re.VERBOSE
)

# In a box: words, an equation's left side and a unit may stand around the one number. A single
# letter that follows it without a space is a variable: 3x is no number, 3 m and 3cm are.
_BOXED = re.compile(
    rf"""(?:[^=≈]*[=≈])? \s* (?:[^\W\d_]{{2,}}[,.:']?\s+)* (?:{_build_number_pattern(_SPACED)})
    (?:[%°€£¥₹.\s]|\^\{{?\\circ\}}?)*+
    (?:(?:(?<=[\s%°]) | (?=[^\W\d_]{{2}})) [^\W\d_] [^=≈\\0-9^(){{}}\[\]]*+ (?:\^\{{?[23]\}}?)? )?
    (?:\([^=≈\\0-9^(){{}}\[\]]*\))? [.\s]*""",
    re.VERBOSE,
)
_LONGEST_BOX = 200  # characters; a number with its words has fewer
_WRAPPER = re.compile(r"\\(?:f?boxed|text(?:bf|it|rm)?|math(?:bf|it|rm|sf)|mbox|bf|rm)\s*\{([^{}]*)\}")
_BLANK = re.compile(r"\\(?:quad|qquad|[ ,:!()])|~|\*\*")

_MINUS = "\N{MINUS SIGN}\N{EN DASH}\N{NON-BREAKING HYPHEN}\N{FULLWIDTH HYPHEN-MINUS}\N{SMALL HYPHEN-MINUS}"
_SPACES = (
    "\N{NO-BREAK SPACE}\N{THIN SPACE}\N{FIGURE SPACE}\N{PUNCTUATION SPACE}\N{SIX-PER-EM SPACE}\N{HAIR SPACE}"
)
_ASCII = str.maketrans(
    dict.fromkeys(_MINUS, "-")
    | dict.fromkeys(_SPACES, _THIN)
    | {"\N{FULLWIDTH COMMA}": ",", "\N{ARABIC THOUSANDS SEPARATOR}": ",", "\N{ARABIC DECIMAL SEPARATOR}": "."}
    | {"\N{FULLWIDTH FULL STOP}": ".", "\N{FRACTION SLASH}": "/", "\N{FULLWIDTH SOLIDUS}": "/"}
    | {"\N{FULLWIDTH DOLLAR SIGN}": "$", "\N{FULLWIDTH YEN SIGN}": "¥", "\N{FULLWIDTH POUND SIGN}": "£"}
)
_VULGAR = re.compile("(?:([0-9])[ \N{NARROW NO-BREAK SPACE}]?)?([¼-¾⅐-⅞])")  # 1½ and ½
_RAISED = re.compile("(?<=10)([⁺⁻]?)([⁰¹²³⁴-⁹]{1,3})")
_UNRAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_TEX = {
    r"\$": "$",
    "{,}": ",",
    r"\,": _THIN,
    r"\;": _THIN,
    r"\!": "",
    r"\%": "%",
    r"\times": "×",
    r"\cdot": "×",
}
_TEX_MARK = re.compile("|".join(re.escape(mark) for mark in _TEX))
_TEX_FRACTION = re.compile(
    r"([0-9])?\s?\\[dt]?frac\s?(?:\{\s?([0-9]{1,30})\s?\}\s?\{\s?([0-9]{1,30})\s?\}|([0-9])([0-9]))"
)


def find_gold_number(answer: str, answer_marker: str | None = None) -> str:
    """Return the gold number: the number after the last answer marker, or the whole answer if it is a number.

    The marker is `####`, or the given text, which must then occur.
    """
    if answer_marker is not None:
        match = (
            re.match(_AFTER, _translate_to_ascii_numbers(answer.rpartition(answer_marker)[2]), re.VERBOSE)
            if answer_marker in answer
            else None
        )
        if match is None:
            raise ValueError(f"the answer has no number after {answer_marker!r}")
        return to_canonical_form(match)
    text = _translate_to_ascii_numbers(answer)
    if marked := [*MARKED.finditer(text)]:
        return to_canonical_form(marked[-1])
    if "####" not in text and (alone := _ALONE.fullmatch(text.strip())):
        return to_canonical_form(alone)
    raise ValueError("the answer must be a number or contain '#### NUMBER'")


def to_canonical_number(text: str) -> str:
    """Normalize a number: `$70,000.0` becomes `70000`, and `2/6` becomes `1/3`."""
    match = _ALONE.fullmatch(_translate_to_ascii_numbers(text).strip())
    if match is None:
        raise ValueError(f"not a number: {text[:80]!r}")
    return to_canonical_form(match)


def normalize_text(text: str) -> str:
    return _replace_latex_box_contents(_translate_to_ascii_numbers(text), _parse_boxed_number)


def to_canonical_form(match: re.Match[str]) -> str:
    """Return a matched number in canonical form: a finite decimal if possible, otherwise a reduced
    fraction.
    """
    negative = "-" in (match["sign"] or "")
    if match["top"]:
        value = Fraction(int(match["top"]), int(match["bottom"]))
        # 2 3/4 is one number, 12 24/2 are two
        value += int(match["whole"] or 0) if value < 1 else 0
        return _with_sign(negative, _convert_fraction_to_decimal(value) or str(value))
    whole = re.sub(r"[^0-9]", "", match["digits"] or "")
    rest = match["rest"] or match["only"] or ""
    exponent = int(match["e"] or match["ten"] or 0)
    digits, point = whole + rest, len(whole) + exponent
    digits, point = ("0" * -point + digits, 0) if point < 0 else (digits.ljust(point, "0"), point)
    return _with_sign(negative, _trim_zeros(digits[:point], digits[point:]))


def _replace_latex_box_contents(text: str, parse_content: Callable[[str], str | None]) -> str:
    pieces: list[str] = []
    copied, depth, begin, is_box = 0, 0, 0, False
    for brace in re.compile(r"(?:\\f?boxed)?\{|\}").finditer(text):
        if brace[0] == "}":
            depth = max(0, depth - 1)
            if is_box and depth == 0:
                pieces += [text[copied:begin], parse_content(text[begin : brace.start()]) or ""]
                copied, is_box = brace.start(), False
        elif is_box:
            depth += 1
        elif brace[0] != "{":
            depth, begin, is_box = 1, brace.end(), True
    return "".join([*pieces, text[copied:]])


def _parse_boxed_number(content: str) -> str | None:
    if len(content) > _LONGEST_BOX:
        return None
    while (bare := _WRAPPER.sub(r" \1 ", content)) != content:
        content = bare
    match = _BOXED.fullmatch(_BLANK.sub(" ", content).replace("\\approx", "≈").strip("${} "))
    return to_canonical_form(match) if match else None


def _translate_to_ascii_numbers(text: str) -> str:
    if not text.isascii():
        text = re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), text).translate(_ASCII)
        text = _VULGAR.sub(_expand_vulgar_fraction, text)
        text = _RAISED.sub(lambda power: f"^{(power[1] + power[2]).translate(_UNRAISED)}", text)
    if "\\" in text or "{,}" in text:
        text = _TEX_MARK.sub(lambda mark: _TEX[mark[0]], text)
        text = _TEX_FRACTION.sub(
            lambda match: (
                f"{match[1] + ' ' if match[1] else ''}{match[2] or match[4]}/{match[3] or match[5]}"
            ),
            text,
        )
    return text


def _expand_vulgar_fraction(match: re.Match[str]) -> str:
    fraction = unicodedata.normalize("NFKC", match[2]).replace("\N{FRACTION SLASH}", "/")
    return f"{match[1]} {fraction}" if match[1] else fraction


def _convert_fraction_to_decimal(value: Fraction) -> str | None:
    remaining, places = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while remaining % prime == 0:
            remaining, count = remaining // prime, count + 1
        places = max(places, count)
    if remaining != 1:
        return None
    digits = str(value.numerator * 10**places // value.denominator).rjust(places, "0")
    return _trim_zeros(digits[: len(digits) - places], digits[len(digits) - places :])


def _trim_zeros(whole: str, rest: str) -> str:
    whole, rest = whole.lstrip("0") or "0", rest.rstrip("0")
    return f"{whole}.{rest}" if rest else whole


def _with_sign(is_negative: bool, number: str) -> str:
    return f"-{number}" if is_negative and number != "0" else number

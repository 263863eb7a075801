"""Signs of degeneration in a text: planted loops of many kinds, and healthy texts that repeat themselves."""

from __future__ import annotations

import random

import pytest

from runner_base.degeneration import find_longest_text_loop, has_script_change, measure_degeneration

LEAD = "First we add the two numbers, and then we subtract what was given away on Monday. "
UNITS = {
    "character": "a",
    "mark": "!",
    "word": "again ",
    "phrase": "I am not sure, ",
    "sentence": "The total number of apples is twelve, because each child has four. ",
    "list item": "- check the answer\n",
    "code": "    total = total + price\n",
    "numbers": "12, ",
    "JSON": '{"name": "apple"}, ',
    "Chinese": "我们需要计算苹果的数量。",
    "Arabic": "نحن بحاجة إلى حساب ",
    "paragraph": "Let me think about this once more. There are four children, and every one of them has three "
    "apples. So we multiply four by three.\n\n",
}
POEM = """Tyger Tyger, burning bright,
In the forests of the night;
What immortal hand or eye,
Could frame thy fearful symmetry?
""" + "\n".join(
    [
        "Row, row, row your boat",
        "Gently down the stream",
        "Merrily, merrily, merrily, merrily",
        "Life is but a dream",
    ]
    * 2
)
TABLE = "| name | value | unit |\n|---|---|---|\n" + "".join(
    f"| item {n} | {3 * n} | MiB |\n" for n in range(1, 5)
)
CODE = (
    "def rows():\n    board = [\n" + "        [0, 0, 0, 0, 0, 0, 0, 0],\n" * 8 + "    ]\n    return board\n"
)
HTML = (
    "<ul>\n"
    + "".join(f"<li>{word}</li>\n" for word in ["one", "two", "three", "four", "five", "six"])
    + "</ul>\n</div>\n" * 6
)
SOLUTION = (
    "She sells 16 - 3 - 4 = 9 eggs a day. She makes 9 * 2 = 18 dollars every day. "
    "In a week she makes 18 * 7 = 126 dollars. In a year she makes 126 * 52 = 6552 dollars. #### 6552"
)
HEALTHY = {"poem": POEM, "table": TABLE, "code": CODE, "HTML": HTML, "solution": SOLUTION, "rule": "-" * 120}


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize("tail", ["", "cut", "goes on"])
def test_a_planted_loop_is_found_with_its_shortest_period(unit: str, tail: str) -> None:
    repeated = unit * max(4, 600 // len(unit))
    text = LEAD + repeated
    if tail == "cut":
        text = text[: -max(1, len(unit) // 2)]
    elif tail == "goes on":
        text += "\nSo the answer is 12."
    loop = find_longest_text_loop(text)
    assert loop is not None
    assert loop.period_chars <= len(unit) + 1
    assert loop.is_at_end == (tail != "goes on")
    assert measure_degeneration(text).is_degenerate


@pytest.mark.parametrize("text", HEALTHY.values(), ids=HEALTHY)
def test_healthy_texts_that_repeat_themselves_have_no_loop(text: str) -> None:
    assert find_longest_text_loop(text) is None
    assert not measure_degeneration(text).is_degenerate


def test_a_loop_may_count() -> None:
    counting = " ".join(f"Step {number}: add {number + 3} to the total." for number in range(1, 30))
    assert find_longest_text_loop(counting) is not None
    numbers = ", ".join(map(str, range(1, 200)))
    assert find_longest_text_loop(numbers) is None, "a list of numbers is no loop"


def test_random_words_have_no_loop_and_few_repetitions() -> None:
    generator = random.Random(3)
    words = [f"w{generator.randrange(1000)}" for _ in range(2000)]
    signs = measure_degeneration(" ".join(words))
    assert signs.loop is None
    assert signs.repeated_ngram_share < 0.01
    assert signs.distinct_word_share == len(set(words)) / len(words)


def test_repeated_sequences_are_counted_also_without_spaces() -> None:
    assert measure_degeneration("a b c d " * 10).repeated_ngram_share == pytest.approx(1 - 4 / 37)
    assert measure_degeneration("苹果数量" * 10).repeated_ngram_share == pytest.approx(1 - 4 / 37)
    assert measure_degeneration("").repeated_ngram_share == 0.0


@pytest.mark.parametrize(
    ("text", "is_change"),
    [
        ("The answer is twelve.", False),
        ("The answer is двенадцать яблок и груш.", True),
        ("The answer is 十二个苹果和六个梨子加在一起", True),
        ("Das Wort „Пушкин“ ist ein Name.", False),
        ("The angle α + β + γ is 180°, and 𝑥 = 3.", False),
        ("答案是十二个苹果。使用 Python 的 numpy library 来计算", False),
        ("今日はりんごを三つ食べました。カタカナもひらがなもあります。", False),
        ("Ответ двенадцать. The answer is twelve, because we add.", False),
    ],
)
def test_a_text_that_goes_on_in_another_script(text: str, is_change: bool) -> None:
    assert has_script_change(text) is is_change


def test_empty_texts_and_broken_characters() -> None:
    assert measure_degeneration(" \n").is_empty
    assert measure_degeneration("").is_degenerate
    broken = measure_degeneration("The price is 5 \ufffd\ufffd.")
    assert (broken.has_broken_characters, broken.is_empty, broken.loop) == (True, False, None)

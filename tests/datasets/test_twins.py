"""Twins: the same story, other numbers, a right answer that is known; and no twin where that cannot
be had."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from runner.config.questions import EMBEDDED
from runner.datasets.items import Item
from runner.datasets.perturbed_questions import perturb_question, perturb_questions
from runner.datasets.word_problems import Split, generate_perturbed_problem, generate_problem
from runner.scorers.numbers import find_gold_number

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k" / "test.jsonl"


def story(question: str) -> str:
    return re.sub(r"\d[\d,]*", "#", question)


def numbers(question: str) -> list[int]:
    return [int(found.replace(",", "")) for found in re.findall(r"\d[\d,]*", question)]


def item(question: str, answer: str) -> Item:
    return Item(question, answer, find_gold_number(answer))


CLIPS = item(
    "Natalia sold clips to 46 of her friends in April, and then she sold half as many clips in May. How many?",
    "Natalia sold 46/2 = <<46/2=23>>23 clips in May.\nAltogether 46+23 = <<46+23=69>>69.\n#### 69",
)
EGGS = item(
    "A farm has 1,500 eggs and sells 16 boxes of 30 eggs for $9 each. How many eggs are left, in 2 days?",
    "It sells 16*30=<<16*30=480>>480.\nLeft are 1500-480=<<1500-480=1020>>1020.\n#### 1020",
)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("split", Split)
def test_the_generator_tells_the_same_story_with_other_numbers(split: Split) -> None:
    for index in range(30):
        one, other = generate_problem(split, index), generate_perturbed_problem(split, index)
        assert story(one.question) == story(other.question)
        assert one.gold != other.gold
        assert other.answer.endswith(f"#### {other.gold}")
        assert generate_perturbed_problem(split, index) == other
    question = Item(one.question, one.answer, one.gold, position=29)
    assert perturb_question(EMBEDDED, split.value, question) == Item(other.question, other.answer, other.gold)
    assert perturb_question(EMBEDDED, split.value, replace(question, position=28)) is None, (
        "another story is no twin"
    )


def test_the_chain_of_a_worked_answer_is_computed_anew() -> None:
    made = perturb_question("x", "test", CLIPS)
    assert made is not None
    assert story(made.question) == story(CLIPS.question)
    [friends] = numbers(made.question)
    assert friends != 46
    assert friends % 2 == 0, "half a clip is none"
    assert made.gold == str(friends * 3 // 2)
    assert perturb_question("x", "test", CLIPS) == made
    eggs = perturb_question("x", "test", EGGS)
    assert eggs is not None
    had, boxes, each, price, days = numbers(eggs.question)
    assert (each, price, days) == (30, 9, 2), "30 may be a month's days, 9 is not used"
    assert eggs.gold == str(had - boxes * each)
    assert re.match(r"A farm has \d,\d{3} eggs", eggs.question), "a number is written as it was"


@pytest.mark.parametrize(
    ("question", "answer", "why"),
    [
        ("He has 48 dogs. Half are 24.", "<<48/2=24>>\n<<48+24=72>>\n#### 72", "a day has 24 hours, too"),
        ("He has 48 dogs.", "#### 48", "nothing says how it is solved"),
        ("He has 48 dogs and 3 cats.", "48+3=<<48+3=52>>52\n#### 52", "a sum that is wrong"),
        (
            "He has 48 dogs and 3 cats.",
            "48+3=<<48+3=51>>51, so\n#### 52",
            "the result of the last step is not the answer",
        ),
        ("He has 48 dogs and 3 cats.", "48+19=<<48+19=67>>67\n#### 67", "nobody knows where 19 comes from"),
        ("He has 48 dogs. 48 cats.", "48+48=<<48+48=96>>96\n#### 96", "two numbers look alike"),
        ("He works 6 days a week.", "6*2=<<6*2=12>>12\n#### 12", "a week has no more days"),
        (
            "It was 1987, 5 dogs.",
            "1987-5=<<1987-5=1982>>1982 <<2-1=1>>\n#### 1",
            "the last step hangs on nothing",
        ),
        ("He has 48 dogs.", "<<__import__('os')=1>>\n#### 1", "no sum"),
        ("He has 48 dogs.", "<<48/0=1>>\n#### 1", "no number"),
        ("He has 48 dogs.", "<<48**48=1>>\n#### 1", "no sum"),
        ("He has 48 dogs.", "<<48/2=x>>\n#### 1", "no number"),
    ],
)
def test_there_is_no_twin_of_what_is_not_understood(question: str, answer: str, why: str) -> None:
    assert perturb_question("x", "test", item(question, answer)) is None, why


@pytest.mark.skipif(not REAL.is_file(), reason="GSM8K's own file is not here")
def test_of_the_real_questions_a_third_or_more_have_twins() -> None:
    lines = [json.loads(line) for line in REAL.read_text().splitlines()[:300]]
    items = [
        replace(item(line["question"], line["answer"]), number=number) for number, line in enumerate(lines)
    ]
    found = perturb_questions("openai/gsm8k", "test", items)
    assert len(found) > 100
    for number, other in found.items():
        assert other.gold != items[number].gold
        assert story(other.question) == story(items[number].question)
        assert (
            sum(a != b for a, b in zip(numbers(items[number].question), numbers(other.question), strict=True))
            >= 1
        )

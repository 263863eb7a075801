"""Choices in other orders: GPQA's columns are shuffled, MMLU-Pro's ten letters are read, rotations
keep the right text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from likely import jsonl
from raising import raises

from runner.config.extractors import Extractor
from runner.datasets.items import Item
from runner.datasets.questions import load_questions
from runner.datasets.rotations import make_constant_gold_letter_notes, rotate_choices
from runner.datasets.row_layouts import GPQA
from runner.scorers import extract_by_all_extractors, letters
from runner.scorers.letters import LETTERS
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import ConfigError
from runner_base.notes import note

Load = Callable[..., list[Item]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def loaded(rows: list[dict[str, Any]], **keys: Any) -> list[Item]:
        return load_questions(Gsm8kConfig(data=jsonl(tmp_path / "rows.jsonl", rows), limit=None, **keys))

    return loaded


def gpqa(number: int) -> dict[str, Any]:
    texts = [f"right {number}", *(f"wrong {number} {wrong}" for wrong in "abc")]
    return {
        "Record ID": f"rec{number}",
        "Question": f"Question {number}?",
        **dict(zip(GPQA, texts, strict=True)),
    }


def pro(number: int) -> dict[str, Any]:
    options = [f"text {at}" for at in range(10)]
    at = number % 10
    return {
        "question_id": number,
        "question": f"{number}?",
        "options": options,
        "answer": LETTERS[at],
        "answer_index": at,
    }


def right_text(item: Item) -> str:
    return item.choices[LETTERS.index(item.gold)]


def test_the_columns_of_gpqa_are_shuffled_by_a_seed(load: Load) -> None:
    items = load([gpqa(number) for number in range(40)])
    counts = Counter(item.gold for item in items)
    assert set(counts) == set("ABCD")
    assert max(counts.values()) < 20
    assert [right_text(item) for item in items] == [f"right {number}" for number in range(40)]
    assert items[3].question.splitlines()[1:] == [
        f"{a}. {b}" for a, b in zip("ABCD", items[3].choices, strict=True)
    ]
    assert items[3].id == "rec3"
    assert load([gpqa(3)])[0].question == items[3].question, (
        "the order depends on the question and not on its place"
    )
    assert [it.gold for it in load([gpqa(number) for number in range(40)], choices_seed=1)] != [
        it.gold for it in items
    ]


def test_columns_that_name_the_right_choice_are_shuffled_and_a_list_only_on_request(load: Load) -> None:
    rows = [{"q": f"{number}?", "good": "yes", "bad": f"no {number}"} for number in range(40)]
    named = load(rows, question_key="q", answer_key="good", choices_key="good+bad")
    assert {item.gold for item in named} == {"A", "B"}
    listed = [
        {"question": f"{number}?", "choices": ["yes", f"no {number}"], "answer": 0} for number in range(40)
    ]
    assert {item.gold for item in load(listed)} == {"A"}
    shuffled = load(listed, choices_seed=5)
    assert {item.gold for item in shuffled} == {"A", "B"}
    assert {right_text(item) for item in shuffled} == {"yes"}
    assert make_constant_gold_letter_notes(load(listed), 1) == [
        note("same_letter", "warning", letter="A", questions=40)
    ]
    assert not make_constant_gold_letter_notes(shuffled, 1)
    assert not make_constant_gold_letter_notes(load(listed), 2)


def test_ten_choices_as_in_mmlu_pro(load: Load, tmp_path: Path) -> None:
    items = load([pro(number) for number in range(10)])
    assert [item.gold for item in items] == list("ABCDEFGHIJ")
    assert items[9].question.endswith("\nJ. text 9")
    with raises(ConfigError, "damaged", f"{tmp_path / 'rows.jsonl'}, line 1"):
        load([pro(0) | {"options": [str(at) for at in range(27)]}])


@pytest.mark.parametrize("letter", "ABIJKPZ")
@pytest.mark.parametrize(
    "text", ["#### {}", "#### ({})", "The answer is {}.", "so \\boxed{{{}}}", "**{}**", "({}) that"]
)
def test_letters_beyond_j_are_found(letter: str, text: str) -> None:
    found = set(extract_by_all_extractors(text.format(letter), letters).values()) - {None}
    assert found == {letter}
    assert extract_by_all_extractors(f"I think it is {letter}", letters)[Extractor.flexible] == letter


def test_rotations_keep_the_right_text_and_are_one_cluster(load: Load) -> None:
    items = load([gpqa(number) for number in range(3)])
    orders = rotate_choices(items, 4)
    assert [item.number for item in orders] == list(range(12))
    for at, item in enumerate(orders):
        assert right_text(item) == f"right {at // 4}"
        assert item.cluster == f"question {at // 4}"
        assert item.question.startswith(f"Question {at // 4}?\nA. {item.choices[0]}\n")
    assert sorted(item.gold for item in orders[:4]) == list("ABCD"), "the right one is once at each position"
    assert orders[0].question == items[0].question
    assert [item.shift for item in rotate_choices(load([pro(0)]), 4)] == [0, 2, 5, 7]
    assert len(rotate_choices(items, 26)) == 12, "no order twice"
    with raises(ConfigError, "unsupported", "task.rotate"):
        rotate_choices(load_questions(Gsm8kConfig(limit=2)), 4)

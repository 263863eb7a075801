"""What task=likelihood scores: the shapes of rows, and what is refused by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from runner.datasets.scored_texts import ScoredItem, TextContext, hash_scored_items, load_scored_items
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.errors import Code, ConfigError, DataError


def load(path: Path, rows: list[Any], **keys: Any) -> list[ScoredItem]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_scored_items(LikelihoodConfig(data=str(path), **keys))


@pytest.mark.parametrize(
    ("row", "given"),
    [
        ({"text": "a b"}, ScoredItem(TextContext.text, "", ("a b",))),
        ({"prompt": "a", "continuation": " b"}, ScoredItem(TextContext.raw, "a", (" b",))),
        ({"question": "a?", "answer": "b"}, ScoredItem(TextContext.asked, "a?", ("b",))),
        ({"question": "a?", "answer": 12}, ScoredItem(TextContext.asked, "a?", ("12",))),
        (
            {"question": "a?", "choices": ["b", "c"], "gold": 1},
            ScoredItem(TextContext.asked, "a?", ("b", "c"), 1),
        ),
        (
            {"prompt": "a?", "choices": ["b", "c"], "gold": "B"},
            ScoredItem(TextContext.raw, "a?", ("b", "c"), 1),
        ),
        (
            {"prompt": "a?", "choices": ["b", "c"], "gold": "b", "answer": "x"},
            ScoredItem(TextContext.raw, "a?", ("b", "c"), 0),
        ),
        (
            {"Body": "Ann has 3.", "Question": "And?", "Answer": 3},
            ScoredItem(TextContext.asked, "Ann has 3. And?", ("#### 3",)),
        ),
    ],
)
def test_the_first_row_says_what_all_rows_are(tmp_path: Path, row: dict[str, Any], given: ScoredItem) -> None:
    assert load(tmp_path / "rows.jsonl", [row, row, row], limit=2, offset=1) == [given] * 2


def test_choices_under_keys_of_their_own_are_scored_behind_the_question_alone(tmp_path: Path) -> None:
    rows = [{"stem": "a?", "options": ["b", "c"], "key": "B"}]
    own = {"question_key": "stem", "answer_key": "key", "choices_key": "options"}
    assert load(tmp_path / "own.jsonl", rows, **own) == [ScoredItem(TextContext.asked, "a?", ("b", "c"), 1)]


@pytest.mark.parametrize(
    ("rows", "code", "key"),
    [
        ([{"texts": "a"}], "damaged", "{file}, line 1"),
        ([{"text": "a"}, {"prompt": "b"}], "damaged", "{file}, line 2"),
        ([{"text": ""}], "damaged", "{file}, line 1"),
        ([["a"]], "damaged", "{file}, line 1"),
        ([], "empty", "task.data"),
        ([{"prompt": "a", "choices": ["b"], "gold": 0}], "damaged", "{file}, line 1"),
        ([{"prompt": "a", "choices": ["b", "c"], "gold": 2}], "damaged", "{file}, line 1"),
        ([{"prompt": "a", "choices": ["b", "c"], "gold": "D"}], "damaged", "{file}, line 1"),
    ],
)
def test_other_rows_are_refused_by_their_line(tmp_path: Path, rows: list[Any], code: Code, key: str) -> None:
    with raises(DataError, code, key.format(file=tmp_path / "rows.jsonl")):
        load(tmp_path / "rows.jsonl", rows)


def test_a_text_file_is_one_text_and_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert load_scored_items(LikelihoodConfig(data=str(tmp_path / "a.txt"))) == [
        ScoredItem(TextContext.text, "", ("one\n\ntwo\n",))
    ]
    with raises(DataError, "unreadable", "task.data=./nope.txt"):
        load_scored_items(LikelihoodConfig(data="./nope.txt"))
    with raises(ConfigError, "too_large", "task.offset"):
        load(tmp_path / "rows.jsonl", [{"text": "a"}], offset=5)


def test_what_is_scored_makes_the_fingerprint(tmp_path: Path) -> None:
    rows = [{"question": "a?", "choices": ["b", "c"], "gold": 1}]
    other = [{**rows[0], "gold": 0}]
    assert hash_scored_items(load(tmp_path / "a.jsonl", rows)) == hash_scored_items(
        load(tmp_path / "b.jsonl", rows)
    )
    assert hash_scored_items(load(tmp_path / "a.jsonl", rows)) != hash_scored_items(
        load(tmp_path / "b.jsonl", other)
    )

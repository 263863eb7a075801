"""What task=likelihood scores: the shapes of rows, and what is refused by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.datasets.given import Form, Given, given_sha256, load_given
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.errors import ConfigError, DataError


def load(path: Path, rows: list[Any], **keys: Any) -> list[Given]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_given(LikelihoodConfig(data=str(path), **keys))


@pytest.mark.parametrize(
    ("row", "given"),
    [
        ({"text": "a b"}, Given(Form.text, "", ("a b",))),
        ({"prompt": "a", "continuation": " b"}, Given(Form.raw, "a", (" b",))),
        ({"question": "a?", "answer": "b"}, Given(Form.asked, "a?", ("b",))),
        ({"question": "a?", "answer": 12}, Given(Form.asked, "a?", ("12",))),
        ({"question": "a?", "choices": ["b", "c"], "gold": 1}, Given(Form.asked, "a?", ("b", "c"), 1)),
        ({"prompt": "a?", "choices": ["b", "c"], "gold": "B"}, Given(Form.raw, "a?", ("b", "c"), 1)),
        (
            {"prompt": "a?", "choices": ["b", "c"], "gold": "b", "answer": "x"},
            Given(Form.raw, "a?", ("b", "c"), 0),
        ),
        (
            {"Body": "Ann has 3.", "Question": "And?", "Answer": 3},
            Given(Form.asked, "Ann has 3. And?", ("#### 3",)),
        ),
    ],
)
def test_the_first_row_says_what_all_rows_are(tmp_path: Path, row: dict[str, Any], given: Given) -> None:
    assert load(tmp_path / "rows.jsonl", [row, row, row], limit=2, offset=1) == [given] * 2


def test_choices_under_keys_of_their_own_are_scored_behind_the_question_alone(tmp_path: Path) -> None:
    rows = [{"stem": "a?", "options": ["b", "c"], "key": "B"}]
    own = {"question_key": "stem", "answer_key": "key", "choices_key": "options"}
    assert load(tmp_path / "own.jsonl", rows, **own) == [Given(Form.asked, "a?", ("b", "c"), 1)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"texts": "a"}],
            "line 1: texts: rows have text; prompt, choices and gold; question, choices and gold",
        ),
        ([{"text": "a"}, {"prompt": "b"}], "line 2: text expected, as in the first row"),
        ([{"text": ""}], "line 1: a text is needed, not an empty one"),
        ([["a"]], "line 1: not an object with keys"),
        ([], "holds no rows"),
        ([{"prompt": "a", "choices": ["b"], "gold": 0}], "line 1: choices: a list of two texts or more"),
        ([{"prompt": "a", "choices": ["b", "c"], "gold": 2}], "line 1: gold: 2 is not one of the 2 choices"),
        (
            [{"prompt": "a", "choices": ["b", "c"], "gold": "D"}],
            'line 1: gold: "D" is not one of the 2 choices',
        ),
    ],
)
def test_other_rows_are_refused_by_their_line(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path / "rows.jsonl", rows)


def test_a_text_file_is_one_text_and_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert load_given(LikelihoodConfig(data=str(tmp_path / "a.txt"))) == [
        Given(Form.text, "", ("one\n\ntwo\n",))
    ]
    with pytest.raises(DataError, match=r"task.data=./nope.txt: nope.txt cannot be read"):
        load_given(LikelihoodConfig(data="./nope.txt"))
    with pytest.raises(ConfigError, match="task.offset=5: .* has only 1 rows"):
        load(tmp_path / "rows.jsonl", [{"text": "a"}], offset=5)


def test_what_is_scored_makes_the_fingerprint(tmp_path: Path) -> None:
    rows = [{"question": "a?", "choices": ["b", "c"], "gold": 1}]
    other = [{**rows[0], "gold": 0}]
    assert given_sha256(load(tmp_path / "a.jsonl", rows)) == given_sha256(load(tmp_path / "b.jsonl", rows))
    assert given_sha256(load(tmp_path / "a.jsonl", rows)) != given_sha256(load(tmp_path / "b.jsonl", other))

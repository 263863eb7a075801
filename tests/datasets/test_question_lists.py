"""Files that name questions: numbers, ids and hashes, as lines or a JSON list, and mistakes in
them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from raising import raises

from runner.datasets.items import Item
from runner.datasets.question_lists import (
    find_positions_of_listed_questions,
    hash_question_text,
    read_question_list,
)
from runner_base.errors import Code, ConfigError, DataError

EVERY = [
    Item("One?\nA. x", "1", "1", 0, stem="One?", id="chal-1"),
    Item("Two?", "2", "2", 1, id="7"),
    Item("Two?", "2", "2", 2, id="chal-3"),
    Item("Four?", "4", "4", 3),
]


def places(folder: Path, text: str) -> set[int]:
    (folder / "list.txt").write_text(text)
    return set(find_positions_of_listed_questions(str(folder / "list.txt"), "task.only", "test", EVERY))


def test_a_line_is_a_number_an_id_or_a_hash(tmp_path: Path) -> None:
    assert places(tmp_path, "0\n3\n") == {0, 3}
    assert places(tmp_path, "\ufeff# a comment\n\n  03  \r\n3\n") == {3}
    assert places(tmp_path, "chal-1\nid:chal-3\n") == {0, 2}
    assert places(tmp_path, "id:7\n") == {1}, "a whole number alone is the number of a question"
    assert places(tmp_path, f"{hash_question_text('Four?')}\n") == {3}
    assert places(tmp_path, f"{hash_question_text('One?')[:16].upper()}\n") == {0}, "without its choices"
    assert places(tmp_path, hash_question_text("Two?")) == {1, 2}, "both questions of this text"
    assert places(tmp_path, json.dumps([1, "chal-3", hash_question_text("Four?")])) == {1, 2, 3}
    assert places(tmp_path, "[\n 1,\n 2]") == {1, 2}


def test_what_is_not_there_is_named_with_its_file(tmp_path: Path) -> None:
    with raises(ConfigError, "not_found", "task.only") as caught:
        places(tmp_path, "0\n4\n7\nchal-9\nchal-8\n")
    assert caught.value.value == str(tmp_path / "list.txt")
    assert [entry in caught.value.reason for entry in ("chal-9", "chal-8")] == [True, False], "the first few"


@pytest.mark.parametrize(
    ("text", "code", "key"),
    [
        ("", "empty", "task.only"),
        ("# nothing\n\n", "empty", "task.only"),
        ("[]", "empty", "task.only"),
        ("[1, ", "damaged", "{file}"),
        ("[1, 2.5]", "damaged", "{file}"),
        ("[1, true]", "damaged", "{file}"),
        ('[{"index": 1}]', "damaged", "{file}"),
    ],
)
def test_mistakes_are_one_message(tmp_path: Path, text: str, code: Code, key: str) -> None:
    with raises(ConfigError, code, key.format(file=f"task.only={tmp_path / 'list.txt'}")):
        places(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with raises(DataError, "unreadable", f"task.unscored={tmp_path / 'none.txt'}"):
        read_question_list(str(tmp_path / "none.txt"), "task.unscored")

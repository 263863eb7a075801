"""The texts that ship: six kinds, mixed evenly, and correct where that can be checked."""

from __future__ import annotations

import ast
import json
from collections import Counter
from typing import Any

import pytest

from runner.config.choices import CONF
from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.datasets.scored_texts import TextContext, load_scored_items
from runner.tasks.likelihood.keys import LikelihoodConfig

ROWS = [
    json.loads(line) for line in (CONF / "dataset" / "texts.jsonl").read_text(encoding="utf-8").splitlines()
]
OF_EACH = {"chat": 40, "code": 40, "mathematics": 40, "language": 40, "json": 20, "long": 20}


def of(category: str) -> list[dict[str, Any]]:
    return [row for row in ROWS if row["category"] == category]


def test_they_are_two_hundred_different_texts_in_six_kinds_and_five_languages() -> None:
    assert Counter(row["category"] for row in ROWS) == OF_EACH
    assert len({row["text"] for row in ROWS}) == 200
    languages = Counter(row["language"] for row in of("language"))
    assert languages == dict.fromkeys(("German", "French", "Spanish", "Russian", "Chinese"), 8)


def test_any_ten_texts_in_a_row_hold_all_kinds_so_that_a_limit_leaves_none_out() -> None:
    for ten in (ROWS[at : at + 10] for at in range(0, 200, 10)):
        assert Counter(row["category"] for row in ten) == {
            kind: count // 20 for kind, count in OF_EACH.items()
        }


def test_json_is_json_and_python_is_python() -> None:
    assert all(json.loads(row["text"]) for row in of("json"))
    python = [
        row["text"]
        for row in ROWS
        if row["category"] in ("code", "long") and ("\ndef " in row["text"] or row["text"][:4] == "def ")
    ]
    assert len(python) > 10
    for text in python:
        ast.parse(text)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("model", "data"),
    [
        (["model=embedded"], "embedded"),
        (["model=auto", "model.name=embedded"], "embedded"),
        (["model=local", "model.name=SOMEWHERE"], str(CONF / "dataset" / "texts.jsonl")),
        (["model=qwen2_05b_instruct"], str(CONF / "dataset" / "texts.jsonl")),
        (["model=local", "model.name=SOMEWHERE", "task.data=embedded"], "embedded"),
        (["model=stub"], "embedded"),
    ],
)
def test_they_are_what_other_models_than_the_embedded_one_are_scored_on(model: list[str], data: str) -> None:
    config = to_runner_config(*compose_job(["task=likelihood", *model]))
    assert vars(config.task)["data"] == data


def test_each_is_scored_as_a_text_of_its_own() -> None:
    given = load_scored_items(LikelihoodConfig(data=str(CONF / "dataset" / "texts.jsonl"), limit=200))
    assert [it.form for it in given] == [TextContext.text] * 200

"""Texts whose likelihood is scored: a whole text, the continuation of a prompt, an answer to a
question, choices.

A .txt file is one text. In a .jsonl file, the keys of the first row tell what all rows are.
Everything else is read as word problems are (runner/datasets/items.py), and the gold answers are
scored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from runner.config.questions import QuestionsConfig
from runner.datasets.gsm8k import load_questions
from runner.datasets.items import Item
from runner.datasets.long_texts import DATA as LONG
from runner.datasets.long_texts import long_rows
from runner.datasets.prompts import text_of
from runner.datasets.question_lists import named_places
from runner.datasets.question_selection import QuestionSelection
from runner.datasets.shapes import CHOICES, Keys, cluster_of
from runner.scorers import LETTERS
from runner_base import ConfigError, DataError, few, read_text
from runner_base.texts import read_json_lines


class Form(StrEnum):
    """In which context a text is scored."""

    text = "text"  # without context, in windows
    raw = "raw"  # after a prompt, both unchanged
    asked = "asked"  # after a question, in the prompt style of the task


@dataclass(frozen=True)
class Given:
    """One row of the data: the scored texts, and their context."""

    form: Form
    question: str  # or the prompt; empty for a text without context
    texts: tuple[str, ...]  # one, or the choices
    gold: int = 0  # the index of the right one
    cluster: str | None = None  # the family of texts that it belongs to
    category: str | None = None  # the kind of text: chat, code, language


SHAPES = {
    "text": "text",
    "prompt+choices+gold": "prompt, choices and gold",
    "question+choices+gold": "question, choices and gold",
    "prompt+continuation": "prompt and continuation",
    "question+answer": "question and answer",
}
NEEDED = f"rows have {'; '.join(SHAPES.values())}"
CATEGORY = "category"  # the key of a row that names its kind of text
BESIDE_TEXTS = ("cluster", CATEGORY)  # what has a fingerprint of its own


def load_given(task: QuestionsConfig) -> list[Given]:
    """Return the rows of task.data to score: shuffled if requested, from task.offset on, task.limit
    rows."""
    path = Path(task.data).expanduser()
    if path.suffix == ".txt":
        text = read_text(path, f"task.data={task.data}").removeprefix("\ufeff")
        if not text.strip():
            raise DataError(f"{path} holds no text", key="task.data", value=task.data, code="empty")
        return [Given(Form.text, "", (text,))]
    if task.data == LONG and not path.exists():
        return _given_rows(task, list(long_rows()), "text")
    is_lines = path.suffix == ".jsonl" and path.is_file() and not task.has_letters
    if is_lines and (shape := _shape_of(path, task)):
        return _given_rows(task, list(_rows(path)), shape)
    return [_given(item) for item in load_questions(task)]


def _given_rows(task: QuestionsConfig, rows: list[tuple[str, Any]], shape: str) -> list[Given]:
    """Return those of the rows, each with its place, that the task selects."""
    choice = QuestionSelection(None, task.offset, task.shuffle_seed)
    named = None if task.only is None else _named(task.only, task.split, rows)
    chosen = [row for position, row in choice.among(rows) if named is None or position in named]
    if named is not None and not chosen:
        raise ConfigError(
            f"none of its rows comes after task.offset={task.offset}",
            key="task.only",
            value=task.only,
            code="empty",
        )
    given = [_read(where, row, shape, task.cluster) for where, row in chosen[: task.limit]]
    if not given:
        raise ConfigError(
            f"task.data={task.data} has only {len(rows)} rows",
            key="task.offset",
            value=task.offset,
            code="too_large",
        )
    return given


def _given(item: Item) -> Given:
    """Return a question with its worked answer, or with all of its choices after the question
    alone."""
    if not item.choices:
        return Given(Form.asked, item.question, (item.answer,), cluster=item.cluster)
    return Given(Form.asked, item.stem, item.choices, LETTERS.index(item.gold), item.cluster)


def given_sha256(given: list[Given]) -> str:
    """Fingerprint of all scored texts, in order."""
    texts = [{key: value for key, value in asdict(text).items() if key not in BESIDE_TEXTS} for text in given]
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()


def category_hashes(given: list[Given]) -> dict[str, str]:
    """Fingerprint of the categories of texts; empty without any."""
    names = [text.category for text in given]
    return {"categories": hashlib.sha256(json.dumps(names).encode()).hexdigest()} if any(names) else {}


def _named(file: str, split: str, rows: list[tuple[str, Any]]) -> frozenset[int]:
    values = [row if isinstance(row, dict) else {} for _, row in rows]
    texts = [
        next((str(row[key]) for key in ("question", "prompt", "text") if key in row), "") for row in values
    ]
    every = [
        _Row(position, str(row.get("id", "")), text)
        for position, (row, text) in enumerate(zip(values, texts, strict=True))
    ]
    return named_places(file, "task.only", split, every)


@dataclass(frozen=True)
class _Row:
    """What a row is known by."""

    position: int
    id: str
    text: str


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each row with its place in the file."""
    return ((f"{path}, line {number}", row) for number, row in read_json_lines(path))


def _shape_of(path: Path, task: QuestionsConfig) -> str | None:
    """Return the kind of rows of a file, by the keys of the first one; None for other keys, such as
    word problems'."""
    where, row = next(_rows(path), (str(path), None))
    if row is None:
        raise DataError(f"{path} holds no rows: {NEEDED}", key="task.data", value=task.data, code="empty")
    if not isinstance(row, dict):
        raise DataError(f"not an object with keys: {NEEDED}", key=where, code="damaged")
    shape = next((shape for shape in SHAPES if set(shape.split("+")) <= row.keys()), None)
    if shape == "question+answer" and (task.question_key or task.answer_key or row.get(CHOICES)):
        return None
    known = {"answer", "Answer", CHOICES}
    if shape is None and not task.question_key and not task.answer_key and not known & row.keys():
        raise DataError(f"{few(sorted(row), 8) or 'no keys'}: {NEEDED}", key=where, code="damaged")
    return shape


def _read(where: str, row: Any, shape: str, cluster_key: str | None = None) -> Given:
    """Read one row; DataError with its place and the reason."""
    try:
        if not isinstance(row, dict) or not set(shape.split("+")) <= row.keys():
            raise ValueError(f"{SHAPES[shape]} expected, as in the first row")
        cluster = next((cluster_of(row, key) for key in Keys(cluster=cluster_key).of_cluster(row)), None)
        category = kind if isinstance(kind := row.get(CATEGORY), str) and kind.strip() else None
        if shape == "text":
            return Given(Form.text, "", (text_of(row["text"]),), cluster=cluster, category=category)
        key = shape.split("+")[0]
        form, question = Form.raw if key == "prompt" else Form.asked, text_of(row[key])
        if shape.endswith("gold"):
            choices = _choices(row["choices"])
            return Given(form, question, choices, _gold(row, choices), cluster, category)
        answer = row[shape.split("+")[1]]
        is_number = isinstance(answer, int | float) and not isinstance(answer, bool)
        text = str(answer) if is_number and form is Form.asked else text_of(answer)
        return Given(form, question, (text,), cluster=cluster, category=category)
    except ValueError as error:
        raise DataError(str(error), key=where, code="damaged") from error


def _choices(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError(
            f"choices: a list of two texts or more expected, found {json.dumps(values, default=str)[:80]}"
        )
    return tuple(map(text_of, values))


def _gold(row: Mapping[str, Any], choices: tuple[str, ...]) -> int:
    """Return the number of the right choice, which may be given as number, letter or text."""
    gold = row["gold"]
    if isinstance(gold, str):
        names = choices if gold in choices else tuple(LETTERS)
        gold = names.index(gold) if gold in names else None
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise ValueError(
            f"gold: {json.dumps(row['gold'], default=str)[:80]} is not one of the {len(choices)} choices: give its "
            "number from 0 on, its letter from A on, or its text"
        )
    return gold

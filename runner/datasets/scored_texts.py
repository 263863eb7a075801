"""Loads texts to score by likelihood: documents, continuations of prompts, answers to questions,
choices.

A .txt file is one document. In a .jsonl file, the keys of the first row determine the layout of
all rows. Everything else is read as word problems are (runner/datasets/items.py), and the gold
answers are scored.
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
from runner.datasets.items import Item
from runner.datasets.long_texts import DATA as LONG
from runner.datasets.long_texts import iterate_synthetic_texts
from runner.datasets.prompts import validate_nonempty_utf8_text
from runner.datasets.question_lists import find_positions_of_listed_questions
from runner.datasets.question_selection import QuestionSelection
from runner.datasets.questions import load_questions
from runner.datasets.row_layouts import CHOICES, RowKeys, parse_cluster_name
from runner.scorers import LETTERS
from runner_base import ConfigError, DataError, join_first_names, read_text
from runner_base.texts import iter_json_lines
from runner_engine import Prompt


class TextContext(StrEnum):
    """Type of the text before a scored document: none, a raw prompt, or a question."""

    text = "text"  # without context, in windows
    raw = "raw"  # after a prompt, both unchanged
    asked = "asked"  # after a question, in the prompt style of the task
    answer = "answer"  # a recorded answer after its prompt, in exact tokens


@dataclass(frozen=True)
class RecordedAnswer:
    """An answer that a model has generated, with the prompt that it answers."""

    prompt: Prompt
    prompt_sha256: str  # after the chat template, as the job recorded it
    prompt_tokens: int
    token_ids: tuple[int, ...]  # empty: only the text is recorded
    num_tokens: int


@dataclass(frozen=True)
class ScoredItem:
    """A data set record whose documents are scored, with the text that precedes them."""

    form: TextContext
    question: str  # or the prompt; empty for a text without context
    texts: tuple[str, ...]  # one, or the choices
    gold: int = 0  # the index of the right one
    cluster: str | None = None  # the family of texts that it belongs to
    category: str | None = None  # the kind of text: chat, code, language
    answer: RecordedAnswer | None = None  # whose text is the only one of `texts`


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


def load_scored_items(task: QuestionsConfig) -> list[ScoredItem]:
    """Return the items of task.data that are scored. task.shuffle_seed, task.offset and task.limit
    select them.
    """
    path = Path(task.data).expanduser()
    if path.suffix == ".txt":
        text = read_text(path, f"task.data={task.data}").removeprefix("\ufeff")
        if not text.strip():
            raise DataError(f"{path} holds no text", key="task.data", value=task.data, code="empty")
        return [ScoredItem(TextContext.text, "", (text,))]
    if task.data == LONG and not path.exists():
        return _parse_selected_items(task, list(iterate_synthetic_texts()), "text")
    is_lines = path.suffix == ".jsonl" and path.is_file() and not task.has_letters
    if is_lines and (shape := _detect_row_layout(path, task)):
        return _parse_selected_items(task, list(_read_rows(path)), shape)
    return [_question_to_scored_item(item) for item in load_questions(task)]


def _parse_selected_items(
    task: QuestionsConfig, rows: list[tuple[str, Any]], row_layout: str
) -> list[ScoredItem]:
    choice = QuestionSelection(None, task.offset, task.shuffle_seed)
    named = None if task.only is None else _find_rows_in_list_file(task.only, task.split, rows)
    chosen = [row for position, row in choice.select_rows(rows) if named is None or position in named]
    if named is not None and not chosen:
        raise ConfigError(
            f"no record remains after task.offset={task.offset}",
            key="task.only",
            value=task.only,
            code="empty",
        )
    given = [_parse_scored_item(where, row, row_layout, task.cluster) for where, row in chosen[: task.limit]]
    if not given:
        raise ConfigError(
            f"task.data={task.data} has only {len(rows)} rows",
            key="task.offset",
            value=task.offset,
            code="too_large",
        )
    return given


def _question_to_scored_item(question: Item) -> ScoredItem:
    if not question.choices:
        return ScoredItem(TextContext.asked, question.question, (question.answer,), cluster=question.cluster)
    return ScoredItem(
        TextContext.asked, question.stem, question.choices, LETTERS.index(question.gold), question.cluster
    )


def hash_scored_items(items: list[ScoredItem]) -> str:
    texts = [
        {key: value for key, value in asdict(text).items() if key not in BESIDE_TEXTS and value is not None}
        for text in items
    ]
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()


def hash_categories(items: list[ScoredItem]) -> dict[str, str]:
    """Return a hash of the categories of all texts. Empty if no text has a category."""
    names = [text.category for text in items]
    return {"categories": hashlib.sha256(json.dumps(names).encode()).hexdigest()} if any(names) else {}


def _find_rows_in_list_file(list_file: str, split: str, rows: list[tuple[str, Any]]) -> frozenset[int]:
    values = [row if isinstance(row, dict) else {} for _, row in rows]
    texts = [
        next((str(row[key]) for key in ("question", "prompt", "text") if key in row), "") for row in values
    ]
    every = [
        _NamedRow(position, str(row.get("id", "")), text)
        for position, (row, text) in enumerate(zip(values, texts, strict=True))
    ]
    return find_positions_of_listed_questions(list_file, "task.only", split, every)


@dataclass(frozen=True)
class _NamedRow:
    """Position, id and text of a data set record. A list file names a record by any of the three."""

    position: int
    id: str
    text: str


def _read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    return ((f"{path}, line {number}", row) for number, row in iter_json_lines(path))


def _detect_row_layout(path: Path, task: QuestionsConfig) -> str | None:
    """Return the layout of a file's records, detected from the first record. None for word problems and
    other layouts.
    """
    where, row = next(_read_rows(path), (str(path), None))
    if row is None:
        raise DataError(f"{path} holds no rows: {NEEDED}", key="task.data", value=task.data, code="empty")
    if not isinstance(row, dict):
        raise DataError(f"the record is not a JSON object: {NEEDED}", key=where, code="damaged")
    shape = next((shape for shape in SHAPES if set(shape.split("+")) <= row.keys()), None)
    if shape == "question+answer" and (task.question_key or task.answer_key or row.get(CHOICES)):
        return None
    known = {"answer", "Answer", CHOICES}
    if shape is None and not task.question_key and not task.answer_key and not known & row.keys():
        raise DataError(
            f"{join_first_names(sorted(row), 8) or 'no keys'}: {NEEDED}", key=where, code="damaged"
        )
    return shape


def _parse_scored_item(
    location: str, row: Any, row_layout: str, cluster_key: str | None = None
) -> ScoredItem:
    """Parse a record into an item to score. Raises DataError with the record's location and the reason."""
    try:
        if not isinstance(row, dict) or not set(row_layout.split("+")) <= row.keys():
            raise ValueError(f"this record needs the keys {SHAPES[row_layout]}, like the first record")
        cluster = next(
            (parse_cluster_name(row, key) for key in RowKeys(cluster=cluster_key).cluster_keys(row)), None
        )
        category = kind if isinstance(kind := row.get(CATEGORY), str) and kind.strip() else None
        if row_layout == "text":
            return ScoredItem(
                TextContext.text,
                "",
                (validate_nonempty_utf8_text(row["text"]),),
                cluster=cluster,
                category=category,
            )
        key = row_layout.split("+")[0]
        form, question = (
            TextContext.raw if key == "prompt" else TextContext.asked,
            validate_nonempty_utf8_text(row[key]),
        )
        if row_layout.endswith("gold"):
            choices = _parse_choices(row["choices"])
            return ScoredItem(
                form, question, choices, _parse_correct_choice_index(row, choices), cluster, category
            )
        answer = row[row_layout.split("+")[1]]
        is_number = isinstance(answer, int | float) and not isinstance(answer, bool)
        text = str(answer) if is_number and form is TextContext.asked else validate_nonempty_utf8_text(answer)
        return ScoredItem(form, question, (text,), cluster=cluster, category=category)
    except ValueError as error:
        raise DataError(str(error), key=location, code="damaged") from error


def _parse_choices(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError(
            f"choices: expected a list of at least two strings, found {json.dumps(values, default=str)[:80]}"
        )
    return tuple(map(validate_nonempty_utf8_text, values))


def _parse_correct_choice_index(row: Mapping[str, Any], choices: tuple[str, ...]) -> int:
    gold = row["gold"]
    if isinstance(gold, str):
        names = choices if gold in choices else tuple(LETTERS)
        gold = names.index(gold) if gold in names else None
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise ValueError(
            f"gold: {json.dumps(row['gold'], default=str)[:80]} is not one of the "
            f"{len(choices)} choices. Give a choice's number (from 0), letter (from A) or text"
        )
    return gold

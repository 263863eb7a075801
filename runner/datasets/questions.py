"""Loads a task's questions and worked examples, and describes them for records.

Questions have a number or a letter as the answer; runner/datasets/items.py reads them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.config.examples import ExamplesConfig
from runner.config.questions import QuestionsConfig
from runner.datasets import long_texts
from runner.datasets.items import Item, QuestionSource, read_questions
from runner.datasets.question_lists import find_positions_of_listed_questions
from runner.datasets.question_selection import QuestionSelection
from runner.datasets.row_layouts import RowKeys
from runner.datasets.word_problems import DISTINCT
from runner_base import ConfigError, check_value

# as records say
GENERATED = {"embedded": "runner.embedded.problems", long_texts.DATA: "runner.datasets.long_texts"}
MAX_MADE = 100_000  # questions of the embedded generator in one job: seconds, and 100 MiB


def load_questions(task: QuestionsConfig) -> list[Item]:
    """Return the questions that the task's config selects, in the configured order.

    task.only restricts the questions to those that it names; those that task.unscored names are
    marked.
    """
    reject_large_embedded_count(task.data, "task.limit", task.limit, task.limit)
    source = QuestionSource(task.data, task.split, "task.data", RowKeys.from_task(task), task.subset)
    if task.only is not None:
        items = _select_listed_questions(task.only, source, task)
    else:
        items = read_questions(source, QuestionSelection(task.limit, task.offset, task.shuffle_seed))
    if not items:
        total = len(read_questions(source, QuestionSelection(task.offset))) if task.offset else 0
        if total:
            raise ConfigError(
                f"split {task.split} of task.data={task.data} has only {total}",
                key="task.offset",
                value=task.offset,
                code="too_large",
            )
        raise ConfigError(
            f"split {task.split} holds no questions", key="task.data", value=task.data, code="empty"
        )
    if items[0].choices_key is not None and task.choices_key is None:
        task.set_detected_choices_key(items[0].choices_key)
    return items if task.unscored is None else _mark_excluded_questions(task.unscored, items, source)


def _select_listed_questions(list_file: str, source: QuestionSource, task: QuestionsConfig) -> list[Item]:
    every = _read_whole_split(source)
    named = find_positions_of_listed_questions(list_file, "task.only", source.split, every)
    numbered = enumerate(
        QuestionSelection(None, task.offset, task.shuffle_seed).select_question_positions(len(every))
    )
    items = [replace(every[position], number=number) for number, position in numbered if position in named][
        : task.limit
    ]
    if not items:
        raise ConfigError(
            f"no question remains after task.offset={task.offset}",
            key="task.only",
            value=list_file,
            code="empty",
        )
    return items


def _mark_excluded_questions(list_file: str, items: list[Item], source: QuestionSource) -> list[Item]:
    """Return all questions. Those in a list file are marked as excluded from the score."""
    named = find_positions_of_listed_questions(
        list_file, "task.unscored", source.split, _read_whole_split(source)
    )
    if all(item.position in named for item in items):
        raise ConfigError(
            f"this file lists all {len(items):,} questions, so no question is left to score",
            key="task.unscored",
            value=list_file,
            code="empty",
        )
    return [replace(item, left_out=item.position in named) for item in items]


def _read_whole_split(source: QuestionSource) -> list[Item]:
    """Return all questions of a split. The embedded data set has no end, so only questions before the
    first repetition count.
    """
    return read_questions(source, QuestionSelection(DISTINCT if source.data == "embedded" else None))


def load_worked_examples(task: ExamplesConfig) -> list[Item]:
    """Return the first task.shots worked examples from task.shots_data, or from the train split of
    task.data.
    """
    if task.shots == 0:
        return []
    reject_large_embedded_count(task.shots_data or task.data, "task.shots", task.shots, task.shots)
    examples = load_train_split(task, f"task.shots={task.shots}", task.shots)
    if len(examples) != task.shots:
        source = task.shots_data or task.data
        raise ConfigError(
            f"{source} has only {len(examples)} examples",
            key="task.shots",
            value=task.shots,
            code="too_large",
        )
    return examples


def load_train_split(task: ExamplesConfig, required_by: str, limit: int | None = None) -> list[Item]:
    """Return the first `limit` questions of task.shots_split, or all questions without a limit.

    Errors name the config key `required_by`.

    The embedded generator is endless: "all" are those before the first repetition.
    """
    if task.shots_data is None and Path(task.data).expanduser().is_file():
        raise ConfigError(
            (
                f"{required_by} needs worked examples, but task.data={task.data} is a file without "
                "a train split. Give task.shots_data=FILE.jsonl, or set task.data to a folder with "
                "one file per split"
            ),
            code="missing",
        )
    data, key = (task.shots_data, "task.shots_data") if task.shots_data else (task.data, "task.data")
    most = DISTINCT if data == "embedded" and limit is None else limit
    subset = task.subset if data == task.data else None
    row_keys = replace(RowKeys.from_task(task), cluster=None)  # examples are not compared
    examples = read_questions(
        QuestionSource(data, task.shots_split, key, row_keys, subset), QuestionSelection(most)
    )
    if data == task.data and task.split == task.shots_split:
        keys = f"task.split={task.split} with {required_by}"
        raise ConfigError(
            "the worked examples would come from the scored questions. Use another split",
            key=keys,
            code="conflict",
        )
    return examples


def reject_large_embedded_count(data: str, key: str, value: object, count: int | None) -> None:
    need = f"the embedded data set provides at most {MAX_MADE:,} questions"
    check_value(data != "embedded" or count is None or count <= MAX_MADE, key, value, need, code="too_large")


def hash_questions(items: list[Item]) -> str:
    text = json.dumps([[item.question, item.answer, item.gold] for item in items], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def describe_dataset(data: str, split: str, sha256: str) -> dict[str, str]:
    """Return the fields with which MLflow logs a data set: name, digest and source."""
    path = Path(data).expanduser()
    source: dict[str, Any]
    if data in GENERATED:
        kind, source = "code", {"tags": {"mlflow.source.name": GENERATED[data]}}
    elif path.exists():
        kind, source = "local", {"uri": str(path.absolute())}
    else:
        kind, source = "hugging_face", {"path": data, "split": split}
    return {
        "name": f"{path.name} {split}",
        "digest": sha256[:16],
        "source_type": kind,
        "source": json.dumps(source),
    }

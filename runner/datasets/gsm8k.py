"""Word problems with a number as the answer: the embedded generator, a JSONL file, or a data set of the hub.

A folder is taken by its `<split>.jsonl`. Each line holds `question` and `answer`; the gold number stands after `####`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from runner.core.errors import ConfigError, DataError, check, unknown
from runner.embedded.problems import Split, problems
from runner.scorers.numbers import gold_number, plain_number


@dataclass(frozen=True)
class Item:
    """One word problem with its worked answer."""

    question: str
    answer: str
    gold: str


def load_questions(data: str, split: str, limit: int | None) -> list[Item]:
    """Return the questions of task.data, in order."""
    items = _read(data, split, "task.data", limit)
    check(bool(items), "task.data", data, f"split {split} holds no questions")
    return items


def load_examples(data: str, examples_data: str | None, split: str, count: int) -> list[Item]:
    """Return the worked examples: the first `count` of task.shots_data, or of the train split of task.data."""
    if count == 0:
        return []
    if examples_data is None and Path(data).expanduser().is_file():
        raise ConfigError(
            f"task.shots={count} needs worked examples, and task.data={data} is one file with the "
            "questions: give task.shots_data=FILE.jsonl, or a folder with train.jsonl as task.data"
        )
    source = examples_data or data
    key = "task.shots_data" if examples_data else "task.data"
    examples = _read(source, "train", key, count)
    check(len(examples) == count, "task.shots", count, f"{source} has only {len(examples)} examples")
    if source == data and split == "train":
        raise ConfigError("task.split=train with task.shots: the examples would be questions too; use another split")
    return examples


def items_sha256(items: list[Item]) -> str:
    """Fingerprint of questions and answers in order."""
    text = json.dumps([[item.question, item.answer, item.gold] for item in items], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def describe(data: str, split: str, sha256: str) -> dict[str, str]:
    """Describe a data set as MLflow keeps it: name, digest, and where it comes from."""
    path = Path(data).expanduser()
    source: dict[str, Any]
    if data == "embedded":
        kind, source = "code", {"tags": {"mlflow.source.name": "runner.embedded.problems"}}
    elif path.exists():
        kind, source = "local", {"uri": str(path.absolute())}
    else:
        kind, source = "hugging_face", {"path": data, "split": split}
    name = f"{path.name} {split}"
    return {"name": name, "digest": sha256[:16], "source_type": kind, "source": json.dumps(source)}


def _read(data: str, split: str, key: str, limit: int | None) -> list[Item]:
    if data == "embedded":
        return _read_embedded(split, limit)
    path = Path(data).expanduser()
    if path.is_dir():
        file = path / f"{split}.jsonl"
        splits = [found.stem for found in path.glob("*.jsonl")]
        if not file.exists():
            raise ConfigError(f"task.split={split}: {unknown('file for split', split, splits)} in {path}")
        return _read_jsonl(file, limit)
    if path.is_file():
        return _read_jsonl(path, limit)
    if data.startswith((".", "/", "~")) or path.suffix in (".jsonl", ".json") or "/" not in data:
        raise DataError(f"{key}={data}: data path does not exist: {path.absolute()}")
    return _read_hub(data, split, key, limit)


def _read_embedded(split: str, limit: int | None) -> list[Item]:
    names = [name.value for name in Split]
    if split not in names:
        raise ConfigError(f"task.split={split}: {unknown('split of the embedded data', split, names)}")
    if limit is None:
        raise ConfigError("task.limit=null: the embedded generator has no end; give a number, e.g. task.limit=1000")
    return list(_embedded_items(split, limit))


@lru_cache(maxsize=8)  # a grid of a thousand jobs asks for the same few sets again and again
def _embedded_items(split: str, limit: int) -> tuple[Item, ...]:
    return tuple(Item(item.question, item.answer, plain_number(item.gold)) for item in problems(Split(split), limit))


def _read_jsonl(file: Path, limit: int | None) -> list[Item]:
    items: list[Item] = []
    with file.open(encoding="utf-8") as lines:
        filled = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
        for number, line in islice(filled, limit):
            try:
                items.append(_item(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{file}, line {number}: {_why(error)}") from error
    return items


def _read_hub(name: str, split: str, key: str, limit: int | None) -> list[Item]:
    import datasets

    try:
        rows = datasets.load_dataset(name, "main" if name.endswith("gsm8k") else None, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{key}={name}, task.split={split}: {first_line}") from error
    rows = rows if limit is None else rows.select(range(min(limit, len(rows))))
    return [_item(dict(row)) for row in rows]


def _item(row: dict[str, str]) -> Item:
    return Item(str(row["question"]), str(row["answer"]), gold_number(row["answer"]))


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no key {error}: each line is an object with `question` and `answer`"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"
    return f"{error} (each line is an object with `question` and `answer`, the answer ending in '#### NUMBER')"

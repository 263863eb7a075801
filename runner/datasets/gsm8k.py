"""Word problems with a number as the answer: the embedded generator, files, or a data set of the hub.

Each line or row holds `question` and `answer`; the gold number stands after `####`. A folder is taken by its
`<split>.jsonl`, or as the hub and `datasets` lay one out (runner/datasets/tables.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from runner.core.errors import ConfigError, DataError, check, unknown
from runner.core.texts import parse_json, read_lines
from runner.datasets import tables
from runner.embedded.problems import Split, problems
from runner.scorers.numbers import gold_number, plain_number

FILES = (".jsonl", ".json", ".parquet", ".arrow")
log = logging.getLogger(__name__)


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
            "questions: give task.shots_data=FILE.jsonl, or a folder with a file for each split as task.data"
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
        return _read_folder(path, split, limit)
    if path.is_file():
        is_table = path.suffix in (".parquet", ".arrow")
        return _items(tables.read_rows([path], limit)) if is_table else _read_jsonl(path, limit)
    if data.startswith((".", "/", "~")) or path.suffix in FILES or "/" not in data:
        raise DataError(f"{key}={data}: data path does not exist: {path.absolute()}")
    return list(_read_hub(data, split, key, limit))


def _read_folder(folder: Path, split: str, limit: int | None) -> list[Item]:
    """Read a split from its lines, or from the tables that the hub and `datasets` lay out."""
    file = folder / f"{split}.jsonl"
    if file.is_file():
        return _read_jsonl(file, limit)
    if found := tables.files_of(folder, split):
        return _items(tables.read_rows(found, limit))
    splits = {found.stem for found in folder.glob("*.jsonl")} | set(tables.splits_of(folder))
    inside = sorted(path.name for path in folder.glob("*/") if tables.splits_of(path))
    other = f"; its folders {', '.join(inside)} hold data, name one of them" if inside and not splits else ""
    raise ConfigError(f"task.split={split}: {unknown('file for split', split, splits)} in {folder}{other}")


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
    try:
        with file.open("rb") as stream:
            lines = islice(read_lines(stream, str(file)), limit)
            return _items((f"{file}, line {number}", line) for number, line in lines)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from error


def _items(rows: Iterable[tuple[str, Any]]) -> list[Item]:
    """Read rows, or lines of JSON, each with where it stands."""
    items: list[Item] = []
    for where, row in rows:
        try:
            items.append(_item(row))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{where}: {_why(error)}") from error
    return items


@lru_cache(maxsize=8)  # a grid asks for the same few sets again and again, and the hub only once
def _read_hub(name: str, split: str, key: str, limit: int | None) -> tuple[Item, ...]:
    """Read a data set of the hub; where that cannot be reached, from the caches of earlier downloads."""
    config = "main" if name.endswith("gsm8k") else None
    if reason := _unreachable(name, key):
        files = tables.cached_on_disk(name, config, split)
        if not files:
            raise DataError(
                f"{key}={name}, task.split={split}: no folder {Path(name).absolute()}, not in the cache, and {reason}. "
                "With the hub in reach, the same command fetches it"
            )
        if not os.environ.get("HF_HUB_OFFLINE"):  # who has asked for it knows
            log.warning("%s=%s: %s: the copy in the cache is used", key, name, reason)
        return tuple(_items(tables.read_rows(files, limit)))
    import datasets

    try:
        rows = datasets.load_dataset(name, config, split=split)
        rows = rows if limit is None else rows.select(range(min(limit, len(rows))))
        return tuple(_items((f"{name}, row {number}", dict(row)) for number, row in enumerate(rows, start=1)))
    except (OSError, ValueError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{key}={name}, task.split={split}: {first_line}") from error


def _unreachable(name: str, key: str) -> str:
    """Say why the hub cannot be asked for a data set, in a few words; empty where it answers."""
    from huggingface_hub import HfApi, constants, errors, is_offline_mode

    from runner.checkpoints import hub

    try:
        if is_offline_mode():
            raise errors.OfflineModeIsEnabled
        HfApi(library_name="runner").dataset_info(name, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except errors.HFValidationError as error:
        here = f"no file or folder {Path(name).absolute()}"
        raise ConfigError(f"{key}={name}: {here}, and not a hub id: {error}") from error
    except (hub.TRANSPORT, OSError, *hub.UNREADABLE) as error:
        return hub.why_not(error)
    return ""


def _item(row: Any) -> Item:
    row = parse_json(row) if isinstance(row, str) else row
    for key in ("question", "answer"):
        if not isinstance(row[key], str) or not row[key].strip():
            raise ValueError(f"`{key}` is {json.dumps(row[key])[:80]} and no text")
    return Item(row["question"], row["answer"], gold_number(row["answer"]))


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no key {error}: each line is an object with `question` and `answer`"
    return f"{error} (each line is an object with `question` and `answer`, the answer ending in '#### NUMBER')"

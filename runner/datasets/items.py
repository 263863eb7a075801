"""Reads questions and answers from files, the Hugging Face Hub and the embedded generator.

Each line or row holds a question and its answer (runner/datasets/row_layouts.py knows the keys). A
folder holds `<split>.jsonl`, or tables in the layout of the Hub or `datasets`
(runner/datasets/tables.py).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from runner.datasets import long_texts, tables
from runner.datasets.question_selection import QuestionSelection, Row
from runner.datasets.row_layouts import RowKeys, parse_dataset_row
from runner.datasets.word_problems import DISTINCT, Split, generate_problem, problem_template_name
from runner.scorers import to_canonical_number
from runner_base import ConfigError, DataError, format_unknown_choice_message, iter_text_lines, parse_json
from runner_base.texts import read_json

MAX_LIST_BYTES = 256 * 2**20  # a JSON list is parsed whole: SVAMP has 0.4 million bytes
FILES = (".jsonl", ".json", ".csv", ".parquet", ".arrow")
log = logging.getLogger(__name__)
TEMPLATE = "template"  # the only field of the embedded questions that names families


@dataclass(frozen=True)
class Item:
    """One question with its worked answer and its gold answer."""

    question: str
    answer: str
    gold: str
    position: int = 0  # its number in the whole split, however that was shuffled and cut
    choices: tuple[str, ...] = ()  # they are in the question as A, B, C …
    stem: str = ""  # the question without the choices
    cluster: str | None = None  # the family of questions that it belongs to
    id: str = field(default="", compare=False)  # of the data set; empty if it has none
    # in the job; gaps are the questions that task.only leaves out
    number: int = field(default=0, compare=False)
    # it is asked, and does not count in the score
    left_out: bool = field(default=False, compare=False)
    choices_key: str | None = field(default=None, compare=False)  # of the row, where it has choices
    # by how many positions its choices were moved on (task.rotate)
    shift: int = field(default=0, compare=False)

    @property
    def text(self) -> str:
        """The question's text without its answer choices."""
        return self.stem or self.question


@dataclass(frozen=True)
class QuestionSource:
    """Location of a data set's questions, and the record keys that contain them."""

    data: str
    split: str
    key: str  # the config key that names the data
    keys: RowKeys
    subset: str | None = None


def read_questions(source: QuestionSource, selection: QuestionSelection) -> list[Item]:
    """Read the selected questions of a split from a file, a folder, the Hub or the embedded generator."""
    data, keys, path = source.data, source.keys, Path(source.data).expanduser()
    if source.subset is not None and (data == "embedded" or path.is_file()):
        raise ConfigError(
            f"{source.key}={data} has no subsets, so this key has no effect. Remove the key",
            key="task.subset",
            value=source.subset,
            code="unsupported",
        )
    if data == "embedded":
        if keys.cluster not in (None, TEMPLATE):
            need = f"embedded questions have no such key. Use task.cluster={TEMPLATE} or task.cluster=null"
            raise ConfigError(need, key="task.cluster", value=keys.cluster, code="unsupported")
        return _generate_selected_questions(source.split, selection, keys.cluster is not None)
    if path.exists() or not _is_hub_id(data):
        return _parse_selected_rows(iter_question_rows(source, keys.list_columns_to_read), selection, keys)
    return list(_read_hub_questions(source, selection))


def iter_question_rows(source: QuestionSource, select_columns: tables.Columns) -> Iterator[Row]:
    """Yield the records of a split with their locations, from a file, a folder or the Hub.

    Records of JSON Lines files are unparsed lines.
    """
    data, path = source.data, Path(source.data).expanduser()
    if path.is_dir():
        return _iter_folder_rows(path, source, select_columns)
    if path.is_file():
        if path.suffix == ".csv":
            return tables.read_csv_rows(path)
        is_table = path.suffix in (".parquet", ".arrow")
        return tables.read_table_rows([path], select_columns) if is_table else _iter_json_rows(path)
    long_texts.reject_synthetic_texts_as_questions(source.key, data)
    if not _is_hub_id(data):
        raise DataError(
            f"data path does not exist: {path.absolute()}", key=source.key, value=data, code="not_found"
        )
    return _iter_hub_rows(source, select_columns)


def _is_hub_id(data: str) -> bool:
    return "/" in data and not data.startswith((".", "/", "~")) and Path(data).suffix not in FILES


def _iter_folder_rows(folder: Path, source: QuestionSource, select_columns: tables.Columns) -> Iterator[Row]:
    """Yield the rows of a split from a folder of .jsonl files, of tables from the Hub, or of tables written
    by save_to_disk.
    """
    split = source.split
    if source.subset is not None:
        folders = sorted(path.name for path in folder.glob("*/"))
        if source.subset not in folders:
            what = format_unknown_choice_message("folder of that name", source.subset, folders)
            raise ConfigError(
                f"{what} in {folder}", key="task.subset", value=source.subset, code="unknown_choice"
            )
        folder = folder / source.subset
    file = folder / f"{split}.jsonl"
    if file.is_file():
        return _iter_json_rows(file)
    if files := tables.find_split_files(folder, split):
        return tables.read_table_rows(files, select_columns)
    splits = {path.stem for path in folder.glob("*.jsonl")} | set(tables.list_dataset_splits(folder))
    inside = sorted(path.name for path in folder.glob("*/") if tables.list_dataset_splits(path))
    other = (
        f"; its folders {', '.join(inside)} contain data. Name one of them" if inside and not splits else ""
    )
    raise ConfigError(
        f"{format_unknown_choice_message('file for split', split, splits)} in {folder}{other}",
        key="task.split",
        value=split,
        code="unknown_choice",
    )


def _generate_selected_questions(
    split: str, selection: QuestionSelection, should_set_clusters: bool
) -> list[Item]:
    """Generate the selected questions of the embedded data set.

    A shuffle reorders all questions before the first repetition.
    """
    names = [name.value for name in Split]
    if split not in names:
        raise ConfigError(
            format_unknown_choice_message("split of the embedded data", split, names),
            key="task.split",
            value=split,
            code="unknown_choice",
        )
    if selection.limit is None:
        raise ConfigError(
            "the embedded data set has no last question. Set a limit, such as task.limit=1000",
            key="task.limit",
            value="null",
            code="missing",
        )
    end = selection.offset + selection.limit
    if selection.shuffle_seed is not None and end > DISTINCT:
        raise ConfigError(
            (
                f"only {DISTINCT:,} embedded questions can be shuffled, but task.offset + "
                f"task.limit is {end:,}. Lower task.limit, or omit task.shuffle_seed"
            ),
            key="task.shuffle_seed",
            value=selection.shuffle_seed,
            code="too_large",
        )
    items = _generate_word_problem_items(split, selection)
    if not should_set_clusters:
        return list(items)
    return [replace(item, cluster=problem_template_name(Split(split), item.position)) for item in items]


@lru_cache(maxsize=8)  # a grid of a thousand jobs asks for the same few sets again and again
def _generate_word_problem_items(split: str, selection: QuestionSelection) -> tuple[Item, ...]:
    assert selection.limit is not None
    places = selection.select_question_positions(
        selection.offset + selection.limit if selection.shuffle_seed is None else DISTINCT
    )
    problems = ((position, generate_problem(Split(split), position)) for position in places)
    return tuple(
        Item(made.question, made.answer, to_canonical_number(made.gold), position, number=number)
        for number, (position, made) in enumerate(problems)
    )


def _iter_json_rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a JSON Lines file, or of a file with one JSON list."""
    try:
        with file.open("rb") as stream:
            if stream.read(1) == b"[" and not file.name.endswith(".jsonl"):
                yield from _read_json_list(file)
                return
            stream.seek(0)
            for number, line in iter_text_lines(stream, str(file)):
                yield f"{file}, line {number}", line
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})", code="unreadable") from error


def _read_json_list(file: Path) -> Iterator[Row]:
    if (size := file.stat().st_size) > MAX_LIST_BYTES:
        most = MAX_LIST_BYTES // 2**20
        raise DataError(
            (
                f"a JSON list of {size / 2**20:,.0f} MiB is larger than the limit of {most}. "
                "Write one record per line (.jsonl)"
            ),
            key=file,
            code="too_large",
        )
    rows = read_json(file, "task.data")
    yield from ((f"{file}, entry {number}", row) for number, row in enumerate(rows, start=1))


def _parse_selected_rows(rows: Iterable[Row], selection: QuestionSelection, keys: RowKeys) -> list[Item]:
    items: list[Item] = []
    for number, (position, (where, row)) in enumerate(selection.select_rows(rows)):
        try:
            read = parse_dataset_row(parse_json_row(row), keys)
            items.append(
                Item(
                    read.question,
                    read.answer,
                    read.gold,
                    position,
                    read.choices,
                    read.stem,
                    read.cluster,
                    id=read.id,
                    number=number,
                    choices_key=read.choices_key,
                )
            )
        except ValueError as error:
            raise DataError(
                (
                    f"{error}. A record needs a question and {keys.required_answer_description}. To use other "
                    "keys of the record, set task.question_key and task.answer_key"
                ),
                key=where,
                code="damaged",
            ) from error
    return items


@lru_cache(maxsize=8)  # a grid asks for the same few sets again and again, and the hub only once
def _read_hub_questions(source: QuestionSource, selection: QuestionSelection) -> tuple[Item, ...]:
    rows = iter_question_rows(source, source.keys.list_columns_to_read)
    return tuple(_parse_selected_rows(rows, selection, source.keys))


def _iter_hub_rows(source: QuestionSource, select_columns: tables.Columns) -> Iterator[Row]:
    """Yield the rows of a Hub data set, or of the local caches if the Hub is unreachable."""
    name, split, key = source.data, source.split, source.key
    config = source.subset or ("main" if name.endswith("gsm8k") else None)
    if reason := _explain_hub_failure(name, key):
        files = tables.find_cached_hub_files(name, config, split)
        if not files:
            raise DataError(
                (
                    f"the folder {Path(name).absolute()} does not exist, the data set is not cached, "
                    f"and {reason}. Repeat the command when the hub is reachable"
                ),
                key=key,
                value=f"{name}, task.split={split}",
                code="unreachable",
            )
        if not os.environ.get("HF_HUB_OFFLINE"):  # offline mode was requested: no warning
            log.warning("%s=%s: %s: the cached copy is used", key, name, reason)
        yield from tables.read_table_rows(files, select_columns)
        return
    import datasets

    try:
        for number, row in enumerate(datasets.load_dataset(name, config, split=split), start=1):
            yield f"{name}, row {number}", dict(row)
    except (OSError, ValueError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        value = f"{name}, task.split={split}"
        raise DataError(first_line, key=key, value=value, code="unreadable") from error


def _explain_hub_failure(name: str, key: str) -> str:
    """Return the reason why the Hub cannot be queried for a data set, or an empty string if it can."""
    from huggingface_hub import HfApi, constants, errors, is_offline_mode

    from runner_engine.checkpoints import hub

    try:
        if is_offline_mode():
            raise errors.OfflineModeIsEnabled
        HfApi(library_name="runner").dataset_info(name, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except errors.HFValidationError as error:
        here = f"no file or folder {Path(name).absolute()}"
        raise ConfigError(
            f"{here} exists, and the name is not a valid Hub id: {error}",
            key=key,
            value=name,
            code="not_found",
        ) from error
    except (hub.TRANSPORT, OSError, *hub.UNREADABLE) as error:
        return hub.describe_hub_failure(error)
    return ""


def parse_json_row(row: Any) -> dict[str, Any]:
    row = parse_json(row) if isinstance(row, str) else row
    if not isinstance(row, dict):
        raise ValueError("not an object with keys")
    return row

"""Reads data set tables on disk: parquet files of the Hub, save_to_disk folders, and caches of `datasets`.

Read with pyarrow alone, row by row: `datasets` takes seconds to import, and retries for long
without a connection.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from runner_base import DataError, format_truncated_repr, join_first_names, load_json_object, to_one_line
from runner_engine.checkpoints import is_plain_file_name

MAX_BYTES = 2 * 2**30  # unpacked, of the columns that are read: GSM8K has 5 million
ROWS_AT_ONCE = 256
# of a data set on the hub, in which a split's parquet files may lie
SUBFOLDERS = ("", "main", "data", "default")
# test-00000-of-00001, on the hub sometimes with a hash
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(-\w+)?")
# what save_to_disk writes for one split, and for several
STATE, SPLITS = ("state.json", "dataset_dict.json")

Row = tuple[str, dict[str, Any]]  # its place in the file, and its values
# of the names that a table has, those to read; ValueError where one is missing
Columns = Callable[[list[str]], list[str]]


def find_split_files(folder: Path, split: str) -> list[Path]:
    """Return the table files of a split. Empty if the folder has no table for this split."""
    if (folder / SPLITS).is_file():
        return (
            find_split_files(folder / split, split)
            if is_plain_file_name(split) and (folder / split / STATE).is_file()
            else []
        )
    if (folder / STATE).is_file():
        state = load_json_object(folder / STATE)
        if state.get("_split") not in (None, split):
            return []
        entries = state.get("_data_files")
        listed = entries if isinstance(entries, list) else []
        names = [entry.get("filename") for entry in listed if isinstance(entry, dict)]
        if not names or not all(map(is_plain_file_name, names)):
            raise DataError(
                f"_data_files: expected the names of Arrow files, found {format_truncated_repr(entries)}",
                key=folder / STATE,
                code="damaged",
            )
        return [folder / str(name) for name in names]
    for subfolder in SUBFOLDERS:
        if files := [path for path in _list_tables(folder / subfolder) if _parse_split_name(path) == split]:
            return _check_all_shards_exist(files)
    return []


def list_dataset_splits(folder: Path) -> list[str]:
    if (folder / SPLITS).is_file():
        return sorted(path.parent.name for path in folder.glob(f"*/{STATE}"))
    if (folder / STATE).is_file():
        return [str(load_json_object(folder / STATE).get("_split"))]
    return sorted(
        {_parse_split_name(path) for subfolder in SUBFOLDERS for path in _list_tables(folder / subfolder)}
    )


def read_table_rows(files: Iterable[Path], select_columns: Columns) -> Iterator[Row]:
    """Yield the rows of parquet and Arrow files in order, with their locations."""
    return (
        (f"{path}, row {number}", row)
        for path in files
        for number, row in enumerate(_read_data_table(path, select_columns), 1)
    )


def read_csv_rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file whose first line names the columns. All values are texts."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            for row in reader:
                location = f"{file}, line {reader.line_num}"
                if None in row or None in row.values():
                    need = f"the header names {len(reader.fieldnames or ())} columns, and this row has another number"
                    raise DataError(f"{need}. Correct or remove the row", key=location, code="damaged")
                yield location, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"no valid CSV in UTF-8 ({error})", key=file, code="damaged") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})", code="unreadable") from error


def find_cached_hub_files(name: str, config: str | None, split: str) -> list[Path]:
    """Return the cached files of a Hub data set. Empty if the data set is not cached."""
    from huggingface_hub import constants

    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets")).expanduser()
    owner, _, short_name = name.rpartition("/")
    wanted = "___".join(part for part in (owner, short_name) if part)
    folders = [
        path
        for path in cache.glob("*")
        if path.name.replace("_", "").lower() == wanted.replace("_", "").lower()
    ]
    builds = [build for path in folders for build in path.glob(f"{config or '*'}/*/*") if build.is_dir()]
    for build in sorted(builds, key=lambda path: path.stat().st_mtime, reverse=True):
        if files := find_split_files(build, split):
            return files
    repo = Path(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}").expanduser()
    try:
        commit = (repo / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        return []
    folder = repo / "snapshots" / commit
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        return []
    if config is not None and (folder / config).is_dir():
        return find_split_files(folder / config, split)
    return find_split_files(folder, split) if config in (None, "main") else []


def _list_tables(folder: Path) -> list[Path]:
    return sorted((*folder.glob("*.parquet"), *folder.glob("*-*.arrow")))


def _parse_split_name(path: Path) -> str:
    """Return the split in a table's file name, such as `test` in test-00000-of-00001.parquet."""
    stem = match[1] if (match := SHARD.fullmatch(path.stem)) else path.stem
    return stem.rpartition("-")[2] if path.suffix == ".arrow" else stem


def _check_all_shards_exist(files: list[Path]) -> list[Path]:
    """Return the files of a split. Raises DataError if a shard is missing."""
    shards = [match for path in files if (match := SHARD.fullmatch(path.stem))]
    if len(shards) == len(files) and {int(match[2]) for match in shards} != set(range(int(shards[0][3]))):
        names = join_first_names([path.name for path in files])
        raise DataError(
            f"expected {int(shards[0][3])} files of this split, found {names}",
            key=files[0].parent,
            code="damaged",
        )
    return files


def _read_data_table(path: Path, select_columns: Columns) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    kind = "a parquet file" if path.suffix == ".parquet" else "an Arrow file"
    try:
        for batch in (_read_parquet_batches if path.suffix == ".parquet" else _read_arrow_batches)(
            path, select_columns
        ):
            yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"not readable as {kind} ({to_one_line(error, 160)})", key=path, code="damaged"
        ) from error


def _columns_to_read(path: Path, names: list[str], select_columns: Columns) -> list[str]:
    try:
        return select_columns(names)
    except ValueError as error:
        raise DataError(str(error), key=path, code="damaged") from error


def _read_parquet_batches(path: Path, select_columns: Columns) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        about, wanted = file.metadata, _columns_to_read(path, file.schema_arrow.names, select_columns)
        groups = map(about.row_group, range(about.num_row_groups))
        parts = [group.column(at) for group in groups for at in range(group.num_columns)]
        # a list's column has the path of its items: lSolutions.list.element
        sizes = [
            part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] in wanted
        ]
        if (size := sum(sizes)) > MAX_BYTES:
            gib, most = size / 2**30, MAX_BYTES / 2**30
            raise DataError(
                f"the decompressed text has {gib:,.1f} GiB, but the limit is {most:,.0f} GiB",
                key=path,
                code="too_large",
            )
        yield from file.iter_batches(ROWS_AT_ONCE, columns=wanted)


def _read_arrow_batches(path: Path, select_columns: Columns) -> Iterator[Any]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as batches:
        wanted = _columns_to_read(path, batches.schema.names, select_columns)
        for piece in batches:
            yield from (
                piece.slice(at, ROWS_AT_ONCE).select(wanted) for at in range(0, piece.num_rows, ROWS_AT_ONCE)
            )

"""Reads files that somebody else has written, without trusting them: their size, their structure
and their numbers.

Nothing is unpacked to disk, and no name in an archive is used as a path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner_base import DataError, few, one_line, parse_json, read_lines, reading

MIB = 2**20
MAX_FILE_BYTES = 1024 * MIB  # of a file that is read whole
LONGEST_NAME = 255  # bytes of the name of a file
MAX_ROWS = 10_000_000  # of a table


def read_bytes(path: Path) -> bytes:
    """Return a file's content; DataError for what is no file, for an empty one and for one that is
    too large."""
    with reading(path):
        if not path.is_file():  # a read of a pipe would wait without end
            raise DataError("this is not a file", key=path, code="unreadable")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"larger than {MAX_FILE_BYTES // MIB} MiB", key=path, code="too_large")
        content = path.read_bytes()
    if not content.strip():
        raise DataError("the file is empty", key=path, code="empty")
    return content


def file_name(name: str, where: object) -> str:
    """Return what a file is called by a name from another file; DataError if none can be called
    so."""
    if not name or "/" in name or "\0" in name or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise DataError(f"no file is named {name[:80]!r}", key=where, code="damaged")
    return name


def in_words(time: datetime) -> str:
    """Return a time as runs have it."""
    return time.strftime("%Y%m%d-%H%M%S")


def changed(path: Path) -> str:
    """Return when a file was changed: of tools that write no time into it."""
    return in_words(datetime.fromtimestamp(path.stat().st_mtime, UTC))


def lines_of(file: Path, what: str, expected: int, where: str) -> Iterator[tuple[str, bytes]]:
    """Yield the lines of a file, each with its place for messages; DataError unless there are so
    many."""
    count = 0
    with reading(file), file.open("rb") as stream:
        for number, line in read_lines(stream, str(file)):
            count += 1
            yield f"{file}, line {number}", line.encode()
    if count != expected:
        raise DataError(
            f"{count} {what}, but {where} counts {expected}: one of them was changed",
            key=file,
            code="mismatch",
        )


def parse(raw: bytes, where: str) -> Any:
    """Return the content of JSON; DataError with the reason if it is none."""
    try:
        return parse_json(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text ({error.reason})", key=where, code="damaged") from error
    except ValueError as error:
        raise DataError(str(error), key=where, code="damaged") from error


def read_parquet(
    path: Path, columns: Mapping[str, Sequence[str]], optional: Mapping[str, Sequence[str]] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file with these columns, each of which has at least these fields.

    `optional`: further fields of these columns, where the file has them.

    DataError for another kind of file, for one with other columns and for one that is too large.
    """
    import pyarrow
    from pyarrow import parquet

    if not path.is_file():
        raise DataError("this is not a file", key=path, code="unreadable")
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            for column, fields in columns.items():
                kind = schema.field(column).type if column in schema.names else None
                if not isinstance(kind, pyarrow.StructType) or set(fields) - {field.name for field in kind}:
                    expected = f"{column} ({', '.join(fields)})" if fields else column
                    raise DataError(
                        f"other columns: expected {expected}, found {few(schema.names, 8)}",
                        key=path,
                        code="damaged",
                    )
            groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
            if (
                sum(group.total_byte_size for group in groups) > MAX_FILE_BYTES
                or file.metadata.num_rows > MAX_ROWS
            ):
                raise DataError(
                    f"larger than {MAX_FILE_BYTES // MIB} MiB or {MAX_ROWS:,} rows, unpacked",
                    key=path,
                    code="too_large",
                )
            names = [f"{column}.{name}" for column, fields in columns.items() for name in fields or ("",)]
            for column, fields in (optional or {}).items():
                names += [
                    f"{column}.{field.name}" for field in schema.field(column).type if field.name in fields
                ]
            for batch in file.iter_batches(columns=[name.removesuffix(".") for name in names]):
                for row in batch.to_pylist():
                    empty = next((column for column in columns if not isinstance(row[column], dict)), None)
                    if empty is not None:
                        raise DataError(f"{empty} is missing in a row", key=path, code="damaged")
                    yield row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"damaged, or not a parquet file ({one_line(error, 120)})", key=path, code="damaged"
        ) from error

"""Read untrusted files with limits on size, structure and numbers.

Nothing is unpacked to disk, and no name in an archive is used as a path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner_base import (
    DataError,
    iter_text_lines,
    join_first_names,
    os_errors_as_data_error,
    parse_json,
    to_one_line,
)

MIB = 2**20
MAX_FILE_BYTES = 1024 * MIB  # of a file that is read whole
LONGEST_NAME = 255  # bytes of the name of a file
MAX_ROWS = 10_000_000  # of a table


def read_bytes(path: Path) -> bytes:
    """Read a file. Raises DataError if the path is not a regular file, or if the file is empty or too
    large.
    """
    with os_errors_as_data_error(path):
        if not path.is_file():  # a read of a pipe would wait without end
            raise DataError("this is not a file", key=path, code="unreadable")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"larger than {MAX_FILE_BYTES // MIB} MiB", key=path, code="too_large")
        content = path.read_bytes()
    if not content.strip():
        raise DataError("the file is empty", key=path, code="empty")
    return content


def validate_file_name(name: str, source: object) -> str:
    """Check a file name that is read from another file. Raises DataError if the name is invalid."""
    if not name or "/" in name or "\0" in name or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise DataError(f"no file is named {name[:80]!r}", key=source, code="damaged")
    return name


def format_run_time(time: datetime) -> str:
    """Format a time as YYYYMMDD-HHMMSS."""
    return time.strftime("%Y%m%d-%H%M%S")


def modification_time(path: Path) -> str:
    return format_run_time(datetime.fromtimestamp(path.stat().st_mtime, UTC))


def iter_lines_checking_count(
    path: Path, item_name: str, expected_count: int, count_source: str
) -> Iterator[tuple[str, bytes]]:
    """Yield each line with its location, such as `FILE, line 3`.

    Raises DataError if the number of lines differs from the expected one.
    """
    count = 0
    with os_errors_as_data_error(path), path.open("rb") as stream:
        for number, line in iter_text_lines(stream, str(path)):
            count += 1
            yield f"{path}, line {number}", line.encode()
    if count != expected_count:
        raise DataError(
            (
                f"the file has {count} {item_name}, but {count_source} records "
                f"{expected_count}. One of the files was changed"
            ),
            key=path,
            code="mismatch",
        )


def parse_json_bytes(file_content: bytes, source: str) -> Any:
    """Parse JSON bytes. Raises DataError with the reason if the JSON is invalid."""
    try:
        return parse_json(file_content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text ({error.reason})", key=source, code="damaged") from error
    except ValueError as error:
        raise DataError(str(error), key=source, code="damaged") from error


def read_parquet(
    path: Path,
    required_columns: Mapping[str, Sequence[str]],
    optional_columns: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file with the required columns and fields.

    `optional_columns` are read if present. Raises DataError for another kind of file, other columns,
    or a file that is too large.
    """
    import pyarrow
    from pyarrow import parquet

    if not path.is_file():
        raise DataError("this is not a file", key=path, code="unreadable")
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            for column, fields in required_columns.items():
                kind = schema.field(column).type if column in schema.names else None
                if not isinstance(kind, pyarrow.StructType) or set(fields) - {field.name for field in kind}:
                    expected = f"{column} ({', '.join(fields)})" if fields else column
                    raise DataError(
                        f"other columns: expected {expected}, found {join_first_names(schema.names, 8)}",
                        key=path,
                        code="damaged",
                    )
            groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
            if (
                sum(group.total_byte_size for group in groups) > MAX_FILE_BYTES
                or file.metadata.num_rows > MAX_ROWS
            ):
                raise DataError(
                    f"the unpacked file exceeds {MAX_FILE_BYTES // MIB} MiB or {MAX_ROWS:,} rows",
                    key=path,
                    code="too_large",
                )
            names = [
                f"{column}.{name}" for column, fields in required_columns.items() for name in fields or ("",)
            ]
            for column, fields in (optional_columns or {}).items():
                names += [
                    f"{column}.{field.name}" for field in schema.field(column).type if field.name in fields
                ]
            for batch in file.iter_batches(columns=[name.removesuffix(".") for name in names]):
                for row in batch.to_pylist():
                    empty = next(
                        (column for column in required_columns if not isinstance(row[column], dict)), None
                    )
                    if empty is not None:
                        raise DataError(f"{empty} is missing in a row", key=path, code="damaged")
                    yield row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the file is not a valid parquet file ({to_one_line(error, 120)})", key=path, code="damaged"
        ) from error

"""Records result files outside of a job's folder, by path, size and digest.

A job whose files differ from the record counts as not done. A file whose size, times and
inode are as recorded is not read to check that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner_engine.checkpoints import file_io


def record_file_states(files: Mapping[Path, str | None]) -> dict[str, dict[str, Any]]:
    """Return size, digest and modification times of each file. A file is hashed only if its digest is
    unknown.
    """
    return {
        str(path.absolute()): {
            "bytes": path.stat().st_size,
            "digest": digest or file_io.hash_file(path, "xxh3_128"),
            "state": _read_times_and_inode(path),
        }
        for path, digest in files.items()
    }


def find_changed_file(recorded_files: Mapping[str, dict[str, Any]]) -> str | None:
    return next(
        (path for path, record in recorded_files.items() if not _is_unchanged(Path(path), record)), None
    )


def _is_unchanged(path: Path, record: dict[str, Any]) -> bool:
    try:
        if not path.is_file() or path.stat().st_size != record["bytes"]:
            return False
        if _read_times_and_inode(path) == record["state"]:
            return True
        digest: str = record["digest"]
        return file_io.hash_file(path, file_io.parse_digest_algorithm(digest)) == digest
    except OSError:
        return False


def _read_times_and_inode(path: Path) -> list[int]:
    """Return mtime, ctime and inode of a file.

    Every write changes at least one of them, even a write that restores size and mtime.
    """
    stat = path.stat()
    return [stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]

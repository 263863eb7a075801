"""Records files outside a job's folder that belong to the job's result, by path, size and digest.

A job whose files differ from the record counts as not done. A file whose size, times and inode
are as recorded is not read to check that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner_engine.checkpoints import file_io


def record_file_states(files: Mapping[Path, str | None]) -> dict[str, dict[str, Any]]:
    """Return path → size, digest and state of each file. A file whose digest is given is not read."""
    return {
        str(path.absolute()): {
            "bytes": path.stat().st_size,
            "digest": digest or file_io.hash_file(path, "xxh3_128"),
            "state": _file_state(path),
        }
        for path, digest in files.items()
    }


def find_changed_file(recorded_files: Mapping[str, dict[str, Any]]) -> str | None:
    """Return the first file that is missing or differs from its recorded state. None if all are
    unchanged.
    """
    return next(
        (path for path, record in recorded_files.items() if not _is_unchanged(Path(path), record)), None
    )


def _is_unchanged(path: Path, record: dict[str, Any]) -> bool:
    try:
        if not path.is_file() or path.stat().st_size != record["bytes"]:
            return False
        if _file_state(path) == record["state"]:
            return True
        digest: str = record["digest"]
        return file_io.hash_file(path, file_io.parse_digest_algorithm(digest)) == digest
    except OSError:
        return False


def _file_state(path: Path) -> list[int]:
    """Return mtime, ctime and inode, which change on every write, even on one that restores size and
    mtime.
    """
    stat = path.stat()
    return [stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]

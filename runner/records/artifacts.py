"""Files outside a job's folder that belong to its result, recorded by path, size and digest.

A job whose files differ from the record counts as not done. A file whose size, times and inode are
as recorded is not read to check that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner_engine.checkpoints import byteio


def promise(files: Mapping[Path, str | None]) -> dict[str, dict[str, Any]]:
    """Return the record of files as they are now; a file with a digest given is not read."""
    return {
        str(path.absolute()): {
            "bytes": path.stat().st_size,
            "digest": digest or byteio.file_digest(path, "xxh3_128"),
            "state": _state(path),
        }
        for path, digest in files.items()
    }


def first_changed(promised: Mapping[str, dict[str, Any]]) -> str | None:
    """Return the first file that is missing or differs from its record; None if all are as
    recorded."""
    return next((path for path, record in promised.items() if not _is_unchanged(Path(path), record)), None)


def _is_unchanged(path: Path, record: dict[str, Any]) -> bool:
    try:
        if not path.is_file() or path.stat().st_size != record["bytes"]:
            return False
        if _state(path) == record["state"]:
            return True
        digest: str = record["digest"]
        return byteio.file_digest(path, byteio.algorithm_of(digest)) == digest
    except OSError:
        return False


def _state(path: Path) -> list[int]:
    """Return what every write changes, even one that restores size and mtime."""
    stat = path.stat()
    return [stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]

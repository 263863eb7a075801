"""Files outside a job's folder that its result promises: by place, size and digest.

A job whose files are not as they were recorded counts as not done. A file whose state (size, times, inode) is that of
the record is not read for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.checkpoints import byteio


def promise(files: Mapping[Path, str | None]) -> dict[str, dict[str, Any]]:
    """Write down files as they are now; a digest that is known already saves reading them."""
    return {
        str(path.absolute()): {
            "bytes": path.stat().st_size,
            "digest": digest or byteio.file_digest(path, "xxh3_128"),
            "state": _state(path),
        }
        for path, digest in files.items()
    }


def first_changed(promised: Mapping[str, dict[str, Any]]) -> str | None:
    """Return the first file that is gone, or not what was promised."""
    return next((path for path, told in promised.items() if not _is_kept(Path(path), told)), None)


def _is_kept(path: Path, told: dict[str, Any]) -> bool:
    try:
        if not path.is_file() or path.stat().st_size != told["bytes"]:
            return False
        if _state(path) == told["state"]:
            return True
        digest: str = told["digest"]
        return byteio.file_digest(path, byteio.algorithm_of(digest)) == digest
    except OSError:
        return False


def _state(path: Path) -> list[int]:
    """What changes with every write, also with one that sets size and mtime back."""
    stat = path.stat()
    return [stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]

"""The names that transformers' modules define, kept in the user's cache.

To import a class at its first use, transformers reads the source of all its models when it is
imported, 3,000 files and twice: half of the time that its import takes. Here it reads them once,
and again when a file of them has changed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from runner_base import kept

READER, MODELS = "transformers.utils.import_utils", "models"
Names = dict[frozenset[str], dict[str, set[str]]]  # the packages that modules need → module → names


@contextmanager
def kept_names() -> Iterator[None]:
    """Let an import of transformers within this block take the names of its models from the
    cache."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds transformers' module that reads the names, and exchanges its function."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find the module as Python does."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname == READER else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_exchange(module: ModuleType) -> None:
                execute(module)
                if (own := getattr(module, "define_import_structure", None)) is not None:
                    module.define_import_structure = keeping(own)  # type: ignore[attr-defined]

            spec.loader.exec_module = execute_and_exchange  # type: ignore[method-assign]
        return spec


def keeping(read: Callable[..., Names]) -> Callable[..., Names]:
    """Return transformers' function for the names of a folder of modules, which reads those of all
    models once."""

    @lru_cache
    @wraps(read)
    def names(module_path: str, prefix: str | None = None) -> Names:
        path = Path(module_path)
        folder = path.parent if path.is_file() else path
        if folder.name != MODELS or (file := _file(folder)) is None:
            return read(module_path, prefix)
        if (found := _read(file)) is None:
            found = read(module_path)
            _keep(file, found)
        if prefix is None:
            return found
        return {
            needs: {f"{prefix}.{at}": its for at, its in modules.items()} for needs, modules in found.items()
        }

    return names


def _file(folder: Path) -> Path | None:
    """Return where the names of a folder are kept: another file when one of its sources changes."""
    return kept.file_of("names", [str(folder), sorted(_sources(str(folder)))])


def _sources(folder: str) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                about = entry.stat()
                yield entry.path, about.st_size, about.st_mtime_ns
            elif entry.name != "__pycache__" and entry.is_dir():
                yield from _sources(entry.path)


def _read(file: Path) -> Names | None:
    """Return the kept names; None where there are none."""
    try:
        entries = kept.read(file).get("names", [])
        return {
            frozenset(needs): {at: set(its) for at, its in modules.items()} for needs, modules in entries
        } or None
    except (ValueError, TypeError, AttributeError):
        return None


def _keep(file: Path, names: Names) -> None:
    entries = [
        [sorted(needs), {at: sorted(its) for at, its in modules.items()}] for needs, modules in names.items()
    ]
    kept.keep(file, {"names": entries})

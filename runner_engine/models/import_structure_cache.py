"""Caches the import structure of transformers on disk, which makes importing transformers
faster.

To import a class at its first use, transformers reads the source of all its models twice,
3,000 files, when it is imported: half of its import time. This cache reads them once, and
again when one of the files has changed.
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

from runner_base import user_cache

READER, MODELS = "transformers.utils.import_utils", "models"
ImportStructure = dict[frozenset[str], dict[str, set[str]]]  # the packages that modules need → module → names


@contextmanager
def use_cached_transformers_import_structure() -> Iterator[None]:
    """Context manager in which `import transformers` uses a cached import structure."""
    finder = _ImportUtilsFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _ImportUtilsFinder(MetaPathFinder):
    """Import hook that makes transformers use a cached import structure."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == READER else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_patch(module: ModuleType) -> None:
                execute(module)
                if (own := getattr(module, "define_import_structure", None)) is not None:
                    module.define_import_structure = add_cache_to_structure_reader(own)  # type: ignore[attr-defined]

            spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


def add_cache_to_structure_reader(
    read_structure: Callable[..., ImportStructure],
) -> Callable[..., ImportStructure]:
    """Wrap transformers' reader of import structures, and cache its results for transformers'
    models.
    """

    @lru_cache
    @wraps(read_structure)
    def read_cached_structure(module_path: str, prefix: str | None = None) -> ImportStructure:
        path = Path(module_path)
        folder = path.parent if path.is_file() else path
        if folder.name != MODELS or (file := _cache_path(folder)) is None:
            return read_structure(module_path, prefix)
        if (found := _read_cache(file)) is None:
            found = read_structure(module_path)
            _write_cache(file, found)
        if prefix is None:
            return found
        return {
            needs: {f"{prefix}.{at}": its for at, its in modules.items()} for needs, modules in found.items()
        }

    return read_cached_structure


def _cache_path(folder: Path) -> Path | None:
    return user_cache.get_cache_file("names", [str(folder), sorted(_stat_sources(str(folder)))])


def _stat_sources(folder: str) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                about = entry.stat()
                yield entry.path, about.st_size, about.st_mtime_ns
            elif entry.name != "__pycache__" and entry.is_dir():
                yield from _stat_sources(entry.path)


def _read_cache(path: Path) -> ImportStructure | None:
    try:
        entries = user_cache.read_cache_file(path).get("names", [])
        return {
            frozenset(needs): {at: set(its) for at, its in modules.items()} for needs, modules in entries
        } or None
    except (ValueError, TypeError, AttributeError):
        return None


def _write_cache(path: Path, import_structure: ImportStructure) -> None:
    entries = [
        [sorted(needs), {at: sorted(its) for at, its in modules.items()}]
        for needs, modules in import_structure.items()
    ]
    user_cache.write_cache_file(path, {"names": entries})

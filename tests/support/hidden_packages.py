"""Hides launchers and sweepers of other packages from a process, as if none were installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

# Makes Python find no launcher or sweeper of another package, as if none were installed.
HIDDEN = """
import pkgutil

iterate = pkgutil.iter_modules


def without_extras(path=None, prefix=""):
    return [module for module in iterate(path, prefix) if not module.name.startswith("hydra_plugins.hydra_")]


pkgutil.iter_modules = without_extras

import sys


class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("hydra_plugins.hydra_"):
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Hide())
sys.modules["optuna"] = sys.modules["ray"] = None
"""


def assert_named(runner: Callable[..., Any], folder: Path, choice: str, extra: str) -> None:
    """Assert that a grid without the package of its launcher or sweeper names what to install."""
    (folder / "hide").mkdir()
    (folder / "hide" / "sitecustomize.py").write_text(HIDDEN)
    done = runner("-m", choice, "model=stub", PYTHONPATH=str(folder / "hide"))
    assert (done.code, done.out) == (2, "")
    install = f"pip install 'runner-llm[{extra}]'"
    assert done.err == f"error: {choice} needs a package that is not installed: {install}\n"

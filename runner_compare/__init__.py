"""`runner-compare`: compares runs side by side, and says which differences are real.

The steps (command.py): load the runs → choose some (selection.py) → pool them, find each one's baseline and compare,
by the answers to the same questions or by repeats (table.py, ways) → show the findings (wording.py, output.py,
page.py, pictures.py). It never imports torch, and writes only what --save and --log ask for.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner_compare.command import entry, main

__all__ = ["entry", "main"]


class _Compare(ModuleType):
    """Makes this package callable: `runner.compare` is a package and a function, whichever is imported first."""

    def __call__(self, *runs: Any, **options: Any) -> Any:
        from runner_compare.in_python import compare

        return compare(*runs, **options)


def __getattr__(name: str) -> Any:
    """Import the command at its first use: others need only the statistics."""
    if name in __all__:
        from runner_compare import command

        return getattr(command, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = _Compare

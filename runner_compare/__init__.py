"""`runner-compare`: compares the runs in MLflow side by side, and says which differences are real.

The steps (command.py): load the runs (runs.py) → choose some (selection.py) → pool them, find each one's baseline
and compare, by the answers to the same questions or by repeats (table.py, pairing.py) → show the findings (wording.py,
output.py, page.py, pictures.py). A side door to the program: it reads MLflow, samples.jsonl and repeats.jsonl, never
imports torch, and writes only what --save and --log ask for.
"""

import sys
from types import ModuleType
from typing import Any

from runner_compare.command import entry, main

__all__ = ["entry", "main"]


class _Compare(ModuleType):
    """Makes this package callable: `runner.compare` is a package and a function, whichever is imported first."""

    def __call__(self, *runs: Any, **options: Any) -> Any:
        from runner_compare.in_python import compare

        return compare(*runs, **options)


sys.modules[__name__].__class__ = _Compare

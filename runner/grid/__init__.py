"""Runs a grid: expands overrides into jobs, then composes and runs each job. Python code calls
`runner.grid(...)`.
"""

import sys
from types import ModuleType
from typing import Any


class _Grid(ModuleType):
    """Makes the package `runner.grid` callable, so that `runner.grid(...)` runs a grid."""

    def __call__(self, *overrides: Any, **more: Any) -> Any:
        from runner.grid.grid_api import run_grid

        return run_grid(*overrides, **more)


sys.modules[__name__].__class__ = _Grid

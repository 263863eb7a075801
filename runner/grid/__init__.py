"""Runs grids: expands overrides into jobs, composes and runs each job. `runner.grid(...)` runs a
grid from Python.
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

"""Grids: expand the overrides into jobs, compose each job once, run them. `runner.grid(...)` runs
one from Python."""

import sys
from types import ModuleType
from typing import Any


class _Grid(ModuleType):
    """Makes this package callable: `runner.grid` is a package and a function, whichever is imported
    first."""

    def __call__(self, *overrides: Any, **more: Any) -> Any:
        from runner.grid.rows import rows

        return rows(*overrides, **more)


sys.modules[__name__].__class__ = _Grid

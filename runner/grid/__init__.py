"""From a grid to running jobs: spread its overrides out, compose each job once. `runner.grid(...)` does one."""

import sys
from types import ModuleType
from typing import Any


class _Grid(ModuleType):
    """Lets the name of this folder be a function, too: `runner.grid` is both, whichever is asked for first."""

    def __call__(self, *overrides: Any, **more: Any) -> Any:
        from runner.grid.rows import rows

        return rows(*overrides, **more)


sys.modules[__name__].__class__ = _Grid

"""Hydra finds plugins only where their class is defined below hydra_plugins: these names are all it needs.

No __init__.py here: it would hide the plugins of other packages.
"""

from contextlib import suppress
from importlib import import_module
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper

from runner.config.hydra import adapt_plugins

adapt_plugins()


def _made_by(module: str, maker: str, name: str, kind: type[Any]) -> type[Any]:
    """Return a plugin class that imports what makes the plugin when it is used: each start lists all, few use one."""

    def new(_: type[Any], **settings: Any) -> Any:
        return getattr(import_module(module), maker)(**settings)

    found = type(name, (kind,), {"__module__": __name__, "__new__": new})
    found.__abstractmethods__ = frozenset()  # nothing is made of it
    return found


GridSweeper = _made_by("runner.grid.sweeper", "GridSweeper", "GridSweeper", Sweeper)  # hydra/sweeper=grid
WorkerLauncher = _made_by("runner.grid.sweeper", "WorkerLauncher", "WorkerLauncher", Launcher)  # hydra/launcher=workers
with suppress(ImportError):
    import hydra_plugins.hydra_optuna_sweeper.optuna_sweeper  # noqa: F401

    OptunaSearch = _made_by("runner.grid.search", "optuna_search", "OptunaSearch", Sweeper)  # hydra/sweeper=optuna

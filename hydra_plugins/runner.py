"""The plugins of this project: Hydra 1.3 finds only classes below hydra_plugins, Hydra 1.4 those of
entry points.

There is no __init__.py here, because it would hide the plugins of other packages.
"""

from importlib import import_module
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper


def _lazy_plugin(module: str, maker: str, name: str, kind: type[Any]) -> type[Any]:
    """Return a plugin class that imports its module at the first use: Hydra lists all plugins at
    each start."""

    def new(_: type[Any], **settings: Any) -> Any:
        return getattr(import_module(module), maker)(**settings)

    plugin = type(name, (kind,), {"__module__": __name__, "__new__": new})
    plugin.__abstractmethods__ = frozenset()  # `new` returns an instance of another class
    return plugin


# hydra/sweeper=grid
GridSweeper = _lazy_plugin("runner.grid.sweeper", "GridSweeper", "GridSweeper", Sweeper)
# hydra/launcher=workers
WorkerLauncher = _lazy_plugin("runner.grid.launchers", "WorkerLauncher", "WorkerLauncher", Launcher)
# Of an option: where that is taken away, hydra/launcher and hydra/sweeper have no such config, and
# nothing asks for these. Nothing of the runner is imported here, since every program that uses
# Hydra reads this file.
RayLauncher = _lazy_plugin("runner.options.launchers.ray_launcher", "RayLauncher", "RayLauncher", Launcher)
SlurmLauncher = _lazy_plugin("runner.options.launchers.slurm", "SlurmLauncher", "SlurmLauncher", Launcher)
OptunaSearch = _lazy_plugin("runner.options.launchers.search", "OptunaSearch", "OptunaSearch", Sweeper)

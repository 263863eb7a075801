"""Hydra finds plugins only where their class is defined below hydra_plugins: these two names are all it needs.

No __init__.py here: it would hide the plugins of other packages.
"""

from runner.grid import other_launchers, sweeper

other_launchers.adapt()


class GridSweeper(sweeper.GridSweeper):
    """hydra/sweeper=grid."""


class WorkerLauncher(sweeper.WorkerLauncher):
    """hydra/launcher=workers."""

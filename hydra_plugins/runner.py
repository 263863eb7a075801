"""Hydra finds plugins only where their class is defined below hydra_plugins: these two names are all it needs.

No __init__.py here: it would hide the plugins of other packages.
"""

from runner.launch import extras, launcher, sweeper

extras.adapt()


class GridSweeper(sweeper.GridSweeper):
    """hydra/sweeper=grid."""


class WorkerLauncher(launcher.WorkerLauncher):
    """hydra/launcher=workers."""

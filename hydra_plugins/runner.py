"""Hydra finds plugins only where their class is defined below hydra_plugins: these two names are all it needs.

No __init__.py here: it would hide the plugins of other packages.
"""

from runner.grid import launcher, plugin_defaults, sweeper

plugin_defaults.adapt()


class GridSweeper(sweeper.GridSweeper):
    """hydra/sweeper=grid."""


class WorkerLauncher(launcher.WorkerLauncher):
    """hydra/launcher=workers."""

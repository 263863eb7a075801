"""Defaults of other packages' plugins that do not fit here, set where those packages are installed."""

from __future__ import annotations

from contextlib import suppress

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf


def adapt() -> None:
    """Store the plugins' configs again under their own names, with our values."""
    store = ConfigStore.instance().store
    with suppress(ImportError):
        from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf

        # a search is for the highest accuracy; and hydra.sweeper.params={key: "interval(0,1)"} can be given anew
        search = OmegaConf.structured(OptunaSweeperConf(direction="maximize", params={}))
        OmegaConf.set_struct(search.params, False)
        store(group="hydra/sweeper", name="optuna", node=search, provider="runner")
    with suppress(ImportError):
        from hydra_plugins.hydra_ray_launcher._config import RayConf, RayLauncherConf

        # no server for the dashboard, and no second try: the runner itself repeats what an innocent job has lost
        init = {"address": None, "include_dashboard": False, "logging_level": "warning"}
        ray = RayLauncherConf(ray=RayConf(init=init, remote={"max_retries": 0}))
        store(group="hydra/launcher", name="ray", node=ray, provider="runner")

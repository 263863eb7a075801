"""Registers Ray, Slurm and Optuna as choices of Hydra config groups, with their required packages and
config keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner.config.hydra_options import HydraOption


@dataclass
class RayLauncherConfig:
    """Config keys of hydra/launcher=ray: the address of Ray, and the resources of each job."""

    _target_: str = "hydra_plugins.runner.RayLauncher"
    address: str | None = (
        None  # HOST:PORT of a cluster's head, or auto; null: RAY_ADDRESS, else Ray on this machine
    )
    num_cpus: float | None = None  # of a job; null: as many as the threads that its model will use
    num_gpus: float = 0.0
    memory_mib: float | None = None  # null: as predicted
    # names that the cluster gives its nodes
    resources: dict[str, float] = field(default_factory=dict)
    max_restarts: int = 3  # of a job whose node dies


def create_optuna_sweeper_config() -> tuple[Any, tuple[str, ...]]:
    """Return the default config of hydra/sweeper=optuna."""
    keys: dict[str, Any] = {"_target_": "hydra_plugins.runner.OptunaSearch", "n_trials": 20, "n_jobs": 2}
    keys |= {"direction": "maximize", "params": {}, "sampler": {"name": "tpe", "seed": None}}
    keys |= {"storage": None, "study_name": None, "max_failure_rate": 0.0, "prune": False}
    return keys, ("params",)


def make_slurm_config() -> tuple[Any, tuple[str, ...]]:
    """Return the default config of Slurm's launcher submitit. Slurm requeues jobs after a node failure or
    a timeout.
    """
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    slurm = SlurmQueueConf(_target_="hydra_plugins.runner.SlurmLauncher", max_num_timeout=3)
    slurm.additional_parameters = {"requeue": True}
    return slurm, ()


RAY = HydraOption(("ray",), lambda: (RayLauncherConfig, ()))
SLURM = HydraOption(("submitit", "hydra_plugins.hydra_submitit_launcher"), make_slurm_config)
OPTUNA = HydraOption(("optuna",), create_optuna_sweeper_config)

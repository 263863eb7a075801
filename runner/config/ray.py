"""The keys of hydra.launcher under hydra/launcher=ray."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class RayLauncherConfig:
    """Where Ray is, and what each job asks it for."""

    _target_: str = "hydra_plugins.runner.RayLauncher"
    address: str | None = None  # HOST:PORT of a cluster's head, or auto; null: RAY_ADDRESS, else Ray on this machine
    num_cpus: float | None = None  # of a job; null: as many as the threads that its model will use
    num_gpus: float = 0.0
    memory_mib: float | None = None  # null: as predicted
    resources: dict[str, float] = field(default_factory=dict)  # names that the cluster gives its nodes
    max_restarts: int = 3  # of a job whose node dies

"""tracking – where results are logged."""

from __future__ import annotations

from dataclasses import dataclass

from runner.core.errors import check


@dataclass
class TrackingConfig:
    """Where results are logged; uri null = sqlite in output_dir."""

    name: str = "sqlite"
    uri: str | None = None
    experiment: str = "runner"
    parent_run_id: str | None = None  # set by a grid, so that its jobs stand below it

    def __post_init__(self) -> None:
        check(bool(self.experiment.strip()), "tracking.experiment", repr(self.experiment), "give it a name")

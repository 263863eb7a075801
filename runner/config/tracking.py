"""tracking – the store that results are logged to."""

from __future__ import annotations

from dataclasses import dataclass

from runner.core.errors import check_not_blank


@dataclass
class TrackingConfig:
    """The store that results are logged to; uri null: sqlite in output_dir."""

    name: str = "sqlite"
    uri: str | None = None
    experiment: str = "runner"
    parent_run_id: str | None = None  # set by a grid, so that its jobs stand below it

    def __post_init__(self) -> None:
        check_not_blank("tracking.experiment", self.experiment, "give it a name")

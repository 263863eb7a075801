"""Logs finished jobs to Weights & Biases. Without WANDB_MODE, runs are stored offline."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from runner.config.trackers import Tracker
from runner_base import Record


@dataclass(frozen=True)
class WandbTracker(Tracker):
    """Writes one W&B run per job. `wandb sync FOLDER/wandb/offline-run-…` uploads an offline run."""

    package: ClassVar[str] = "wandb"

    def log_record(self, record: Record, project: str, folder: Path) -> None:
        import wandb

        run = wandb.init(
            project=project,
            name=record.name or record.job_id,
            group=record.task,
            config={"job_id": record.job_id, **record.params},
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(silent=True, console="off"),
        )
        run.summary.update(record.result.metrics)
        run.finish()


TRACKER = WandbTracker()

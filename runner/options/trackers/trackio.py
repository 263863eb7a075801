"""Logs finished jobs to Trackio, whose database is in TRACKIO_DIR (default: its cache folder)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from runner.config.trackers import Tracker
from runner_base import Record


@dataclass(frozen=True)
class TrackioTracker(Tracker):
    """Writes one Trackio run per job. `trackio show` displays the runs."""

    package: ClassVar[str] = "trackio"

    def log_record(self, record: Record, project: str, folder: Path) -> None:  # TRACKIO_DIR
        import trackio

        trackio.init(
            project=project,
            name=record.name or record.job_id,
            group=record.task,
            config={"job_id": record.job_id, **record.params},
            embed=False,
            auto_log_cpu=False,
        )
        trackio.log(record.result.metrics)
        trackio.finish()


TRACKER = TrackioTracker()

"""Logs finished jobs to experiment trackers besides MLflow."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from runner.config.trackers import KEY, Tracker
from runner_base import Record, load_plug_in_object

log = logging.getLogger(__name__)


def log_to_trackers(names: Sequence[str], record: Record, project: str, folder: Path) -> None:
    """Log a finished job to each tracker. A tracker that fails costs a warning, because the result is on disk."""
    for name in names:
        try:
            with redirect_stdout(sys.stderr):  # stdout has the job's result
                load_plug_in_object("tracker", name, Tracker).log_record(record, project, folder)
        except Exception as error:  # noqa: BLE001  # of another package
            log.warning("%s=%s: the result of %s was not logged (%s)", KEY, name, record.job_id, error)

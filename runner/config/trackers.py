"""Experiment trackers besides MLflow, to which finished jobs are logged.

An entry point of the group `runner.trackers` names a Tracker.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from runner_base import ConfigError, Record, find_plug_ins, format_unknown_choice_message, load_plug_in_object
from runner_base.plugins import find_builtin_options

KEY = "trackers"


@dataclass(frozen=True)
class Tracker:
    """Writes finished jobs to an experiment tracker. A subclass names the package that it needs."""

    package: ClassVar[str]

    def log_record(self, record: Record, project: str, folder: Path) -> None:
        """Log a finished job to a project. Files of the tracker go to the folder."""
        raise NotImplementedError


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for an unknown tracker, and for one whose package is not installed."""
    for name in names:
        known = {*find_builtin_options("tracker"), *find_plug_ins("tracker")}
        if name not in known:
            raise ConfigError(
                format_unknown_choice_message("", name, known), key=KEY, value=name, code="unknown_choice"
            )
        package = load_plug_in_object("tracker", name, Tracker).package
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"the package {package} is not installed. Run: pip install {package}",
                key=KEY,
                value=name,
                code="needs_package",
            )

"""~GROUP is refused: a job has a choice of every group."""

from __future__ import annotations

from collections.abc import Iterable

from runner.config.choices import choices_for
from runner.config.groups import GROUPS
from runner.config.profiles import NONE
from runner_base import ConfigError


def refuse_deleted(overrides: Iterable[str]) -> None:
    """Reject ~GROUP: a job has a choice of each group, one of which may be none."""
    for line in overrides:
        group = line.removeprefix("~").partition("=")[0]
        if line.startswith("~") and group in {*GROUPS, "profile"}:
            use = (
                f"use {group}={NONE}"
                if NONE in choices_for(group)
                else "leave it out for the default, or name one"
            )
            raise ConfigError(
                f"a job has a choice of every group: {use}. {_all(group)}", key=f"~{group}", code="missing"
            )


def _all(group: str) -> str:
    return f"Choices for {group}: {', '.join(choices_for(group))}"

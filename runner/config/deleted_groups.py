"""Rejects overrides such as ~lora, because a job needs a choice of every config group."""

from __future__ import annotations

from collections.abc import Iterable

from runner.config.choices import list_choices
from runner.config.groups import GROUPS
from runner.config.profiles import NONE
from runner_base import ConfigError


def reject_deleted_groups(overrides: Iterable[str]) -> None:
    """Raise ConfigError for a ~GROUP override. Every config group needs a choice, which may be `none`."""
    for line in overrides:
        group = line.removeprefix("~").partition("=")[0]
        if line.startswith("~") and group in {*GROUPS, "profile"}:
            use = (
                f"use {group}={NONE}"
                if NONE in list_choices(group)
                else "remove this override to use the default, or name a choice"
            )
            raise ConfigError(
                f"every config group needs a choice: {use}. {_list_group_choices(group)}",
                key=f"~{group}",
                code="missing",
            )


def _list_group_choices(group: str) -> str:
    return f"Choices for {group}: {', '.join(list_choices(group))}"

"""The choices of each group. Each choice is a YAML file that begins with its schema."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from runner.config.groups import GROUPS

HERE = Path(__file__).resolve().parents[1]
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # in a wheel, or in a checkout


def choices_for(group: str) -> list[str]:
    """Return the names of a group's choices."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@cache
def schema_of(group: str, choice: str) -> type[Any]:
    """Return the schema that the YAML of a choice begins with."""
    text = (CONF / group / f"{choice}.yaml").read_text(encoding="utf-8")
    match = re.search(r"^defaults: \[/hydra/schema/\w+/(\w+)@_here_, _self_\]$", text, re.MULTILINE)
    assert match is not None, f"conf/{group}/{choice}.yaml does not begin with its schema"
    return GROUPS[group][match[1]]

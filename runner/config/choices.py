"""The choices of each group. Each choice is a YAML file that begins with its schema."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from runner.config.groups import GROUPS
from runner_base.plugins import conf_folders, own_conf_folders

HERE = Path(__file__).resolve().parents[1]
# in a wheel, or in a checkout
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"


def own_files(group: str) -> list[Path]:
    """Return the YAML files of a group's choices that ship: in conf/, and beside the runner's own
    options."""
    return sorted(file for conf in (CONF, *own_conf_folders()) for file in (conf / group).glob("*.yaml"))


def choices_for(group: str) -> list[str]:
    """Return the names of a group's choices."""
    folders = (CONF, *own_conf_folders(), *conf_folders().values())
    return sorted({file.stem for conf in folders for file in (conf / group).glob("*.yaml")})


def file_of(group: str, choice: str) -> Path:
    """Return the YAML file of a choice, in conf/ or in that of a plug-in's package; no file if it
    is the user's own."""
    folders = (CONF, *own_conf_folders(), *conf_folders().values())
    return next((file for conf in folders if (file := conf / group / f"{choice}.yaml").is_file()), Path())


@cache
def schema_of(group: str, choice: str) -> type[Any]:
    text = file_of(group, choice).read_text(encoding="utf-8")
    match = re.search(r"^defaults: \[/hydra/schema/\w+/(\w+)@_here_, _self_\]$", text, re.MULTILINE)
    assert match is not None, f"conf/{group}/{choice}.yaml does not begin with its schema"
    return GROUPS[group][match[1]]

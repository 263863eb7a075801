"""Lists the choices of each config group. A choice is a YAML file whose defaults list starts with
its schema.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from runner.config.groups import GROUPS
from runner_base.plugins import find_builtin_conf_folders, find_plug_in_conf_folders

HERE = Path(__file__).resolve().parents[1]
# in a wheel, or in a checkout
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"


def installed_choice_files(group: str) -> list[Path]:
    return sorted(
        file for conf in (CONF, *find_builtin_conf_folders()) for file in (conf / group).glob("*.yaml")
    )


def list_choices(group: str) -> list[str]:
    folders = (CONF, *find_builtin_conf_folders(), *find_plug_in_conf_folders().values())
    return sorted({file.stem for conf in folders for file in (conf / group).glob("*.yaml")})


def find_choice_file(group: str, choice: str) -> Path:
    """Return the YAML file of an installed choice. Empty path if the user has defined the choice."""
    folders = (CONF, *find_builtin_conf_folders(), *find_plug_in_conf_folders().values())
    return next((file for conf in folders if (file := conf / group / f"{choice}.yaml").is_file()), Path())


@cache
def get_choice_schema(group: str, choice: str) -> type[Any]:
    text = find_choice_file(group, choice).read_text(encoding="utf-8")
    match = re.search(r"^defaults: \[/hydra/schema/\w+/(\w+)@_here_, _self_\]$", text, re.MULTILINE)
    assert match is not None, f"conf/{group}/{choice}.yaml must begin with the schema of its group"
    return GROUPS[group][match[1]]

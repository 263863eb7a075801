"""Which of the runner's own options are here. Studies and pages tell of all of them; any may have
been taken away."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from runner.config.choices import list_choices

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "runner" / "options"
GROUPS = ("task", "model")  # that options add choices to


def named() -> set[str]:
    """Return the options that the picture of ARCHITECTURE.md names."""
    (line,) = re.findall(r"^  options/ .*$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    return {*re.sub(r"\([^)]*\)", "", line).rpartition(":")[2].replace(",", " ").split()}


def absent() -> set[str]:
    """Return the options that have been taken away."""
    return {option for option in named() if not (FOLDER / option / "__init__.py").is_file()}


def studies() -> list[Path]:
    """Return the studies of experiments/, without those of options that have been taken away."""
    return [
        file for file in sorted((ROOT / "experiments").glob("*.yaml")) if not absent() or _is_possible(file)
    ]


def is_possible(command: str) -> bool:
    """Whether all tasks and models of a command are here, and those of its study."""
    chosen = re.findall(rf"(?<![\w.])({'|'.join(GROUPS)})=(\w+)", command)
    names = re.findall(r" -cn (\w+)", command)
    studied = [file for name in names if (file := ROOT / "experiments" / f"{name}.yaml").is_file()]
    if "battery" in names:
        tasks = re.findall(r"\bbattery/(\w+)", (ROOT / "conf" / "battery.yaml").read_text())
        chosen += [("task", task) for task in tasks]
    return all(choice in list_choices(group) for group, choice in chosen) and all(map(_is_possible, studied))


def _is_possible(study: Path) -> bool:
    chosen = [
        line for line in yaml.safe_load(study.read_text()).get("defaults", []) if isinstance(line, dict)
    ]
    overrides = {
        key.removeprefix("override ").strip("/"): choice for line in chosen for key, choice in line.items()
    }
    return all(overrides[group] in list_choices(group) for group in GROUPS if group in overrides)

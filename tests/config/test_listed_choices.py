"""The comments of conf/config.yaml name every choice that a group has."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# The comment of `model` names its presets by one example and by their folder.
GROUPS = ("quantization", "lora", "rope", "generation", "task", "tracking", "profile")


def commented_words() -> dict[str, set[str]]:
    """Return the words in the comment of each group in conf/config.yaml."""
    words: dict[str, set[str]] = {}
    group = ""
    for line in (ROOT / "conf" / "config.yaml").read_text().splitlines():
        if found := re.match(r"  - (\w+): ", line):
            group = found[1]
        elif not line.startswith("   "):
            group = ""
        if group:
            comment = line.partition("#")[2]
            words.setdefault(group, set()).update(re.findall(r"[\w.]+", comment))
    return words


@pytest.mark.thorough
def test_the_comment_of_a_group_names_all_its_choices(runner: Callable[..., Any]) -> None:
    words, missing = commented_words(), {}
    for line in runner("print=full", "--help").out.splitlines():
        group, colon, choices = line.partition(": ")
        if colon and group in GROUPS:
            missing[group] = set(choices.split(", ")) - words[group]
    assert missing == {group: set() for group in GROUPS}

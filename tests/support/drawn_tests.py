"""Which tests `make test` leaves out: of those that are sampled or smoke tests, all that are not
drawn by their names."""

from __future__ import annotations

import random
from typing import Any

import pytest


def mark_thorough(items: list[pytest.Item]) -> None:
    """Mark all that `make test` leaves out: which tests and cases it runs follows from their names
    alone.

    Of a test that is sampled(few) it runs a few cases, as different ones as can be; of a file that
    is smoke(few) a few tests, each in one case.
    """
    cases: dict[str, list[pytest.Item]] = {}
    smoke: dict[str, list[str]] = {}
    for item in items:
        cases.setdefault(item.nodeid.split("[")[0], []).append(item)
    left_out: list[pytest.Item] = []
    for name, all_of in cases.items():
        if sampled := all_of[0].get_closest_marker("sampled"):
            left_out += _not_drawn(name, all_of, sampled.args[0])
        if all_of[0].get_closest_marker("smoke"):
            left_out += _not_drawn(name, all_of, 1)
            smoke.setdefault(name.split("::")[0], []).append(name)
    for file, names in smoke.items():
        marker = cases[names[0]][0].get_closest_marker("smoke")
        assert marker is not None
        left_out += [item for name in _not_drawn(file, names, marker.args[0]) for item in cases[name]]
    for item in left_out:
        item.add_marker(pytest.mark.thorough)


def _not_drawn(name: str, values: list[Any], few: int) -> list[Any]:
    """Return all values but a few that are drawn by a name; of cases, those first that have a
    parameter not drawn yet."""
    left, seen = random.Random(name).sample(values, len(values)), set[str]()
    words = {
        id(value): {*value.callspec.id.split("-")} if hasattr(value, "callspec") else set()
        for value in values
    }
    for _ in range(min(few, len(left))):
        drawn = max(left, key=lambda value: len(words[id(value)] - seen))
        left.remove(drawn)
        seen |= words[id(drawn)]
    return left

"""The table on terminals of any width: columns are left out and cells wrapped before a word or a
number is cut."""

from __future__ import annotations

import io
from typing import Any

import pytest
from stores import NF4, NONE, Store, marks


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_notes_that_differ_are_a_column_and_notes_that_all_share_are_none(store: Store, show: Any) -> None:
    for name, config, why in (("first", NONE, "baseline"), ("second", NF4, "a second look")):
        store.job("noted", name, config | {"notes.why": why, "notes.team": "blue"}, marks(180, 200))
    code, out, _ = show("noted", "--baseline", "quantization=none")
    assert code == 0
    head = next(line for line in out.splitlines() if "notes.why" in line)
    assert "notes.team" not in head
    assert any("nf4" in line and "a second" in line for line in out.splitlines())

"""A grid over profiles, one of which has a server."""

from __future__ import annotations

from pathlib import Path

import pytest

import runner as package

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out


def row(text: str, cells: str) -> bool:
    """Return whether exactly one line of a table has these cells side by side."""
    return [cells in " ".join(line.split()) for line in text.splitlines()].count(True) == 1


def test_a_profile_brings_a_choice_that_has_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profiles = {"profile": ["low_memory", "teacher_only"], "model.base_url": "http://127.0.0.1:1/v1"}
    rows = package.grid("plan=quick", "tracking=none", f"output_dir={tmp_path}", profiles)
    assert [(row["profile"], row["status"]) for row in rows] == [
        ("low_memory", "to do"),
        ("teacher_only", "impossible"),
    ]
    assert "model.name=NAME" in rows[1]["error"], "the address is given, and only the name is missing"
    message = "note: model.base_url: jobs with model=embedded ignore the override"
    assert message in capsys.readouterr().err

"""A short run of the simulation of a team's tokens and seeds."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.thorough


def test_intervals_that_count_seeds_hold_and_those_of_questions_only_do_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import team_tokens

    monkeypatch.setattr(team_tokens, "SETTINGS", [(5, 100, 0.7, 0.4, "more")])
    monkeypatch.setattr(team_tokens, "PAIRS", [(5, 100, 0.4)])
    monkeypatch.setattr(sys, "argv", ["team_tokens.py", "--pairs", "60"])
    assert team_tokens.main() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("    5  ")]
    *_, only_questions, _ = lines[0].split()
    assert float(only_questions) < 80
    assert float(lines[1].split("]")[2].split("%")[0]) > 20, "equal teams, called different by questions only"

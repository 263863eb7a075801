"""A short run of the simulation of an accuracy's interval over families of questions."""

from __future__ import annotations

import sys

import pytest


def test_intervals_by_families_hold_and_those_of_independent_questions_do_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import cluster_accuracy

    monkeypatch.setattr(cluster_accuracy, "SETTINGS", [(20, 10, False, 0.7)])
    monkeypatch.setattr(cluster_accuracy, "FURTHER", [])
    monkeypatch.setattr(sys, "argv", ["cluster_accuracy.py", "--pairs", "60"])
    assert cluster_accuracy.main() == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["20", "10"])
    by_families, independent = float(line.split()[3]), float(line.split()[-3])
    assert by_families >= 90
    assert independent <= 85

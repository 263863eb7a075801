"""Measurements of earlier starts, as a job's folder keeps them."""

from __future__ import annotations

import json
from pathlib import Path

from runner.records.measured import MEASURED, Measured
from runner_base.notes import given, note
from runner_engine import EngineReport, EngineStats
from runner_engine.sessions import RowShortage

SLIDES = note("attention_slides", over=64, requested=80)
TEXT = "its attention slides over 64 tokens, and 80 were requested"


def measured() -> Measured:
    stats = EngineStats(prefill_tokens=5, notes=[SLIDES], row_shortages=[RowShortage(rows=2, asked_rows=4)])
    return Measured(EngineReport(notes=[SLIDES]), stats, 1.0, "this machine", "exclusive")


def test_notes_are_text_on_disk_and_notes_again_when_read(tmp_path: Path) -> None:
    measured().write(tmp_path)
    values = json.loads((tmp_path / MEASURED).read_text())
    assert values["report"]["notes"] == values["stats"]["notes"] == [TEXT]
    earlier = Measured.read(tmp_path)
    assert earlier is not None
    assert earlier.report.notes == earlier.stats.notes == [given(TEXT)]
    assert earlier.stats.row_shortages == [RowShortage(rows=2, asked_rows=4)]


def test_a_start_that_says_the_same_again_says_it_once(tmp_path: Path) -> None:
    measured().write(tmp_path)
    whole = measured().after(Measured.read(tmp_path))
    assert whole.stats.prefill_tokens == 10
    assert whole.stats.notes == [given(TEXT)]
    assert whole.stats.row_shortages == [RowShortage(rows=2, asked_rows=4)]

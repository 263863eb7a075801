"""Measurements of earlier starts, as a job's folder keeps them."""

from __future__ import annotations

import json
from pathlib import Path

from runner.records.engine_measurements import MEASURED, EngineMeasurements
from runner_base.notes import note, text_note
from runner_engine import EngineReport, EngineStats
from runner_engine.sessions import SequenceShortage

SLIDES = note("attention_slides", over=64, requested=80)
TEXT = "the attention window is 64 tokens, but 80 were requested"


def measured() -> EngineMeasurements:
    stats = EngineStats(
        prefill_tokens=5, notes=[SLIDES], row_shortages=[SequenceShortage(rows=2, asked_rows=4)]
    )
    return EngineMeasurements(EngineReport(notes=[SLIDES]), stats, 1.0, "this machine", "exclusive")


def test_notes_are_text_on_disk_and_notes_again_when_read(tmp_path: Path) -> None:
    measured().write_measurements_to_folder(tmp_path)
    values = json.loads((tmp_path / MEASURED).read_text())
    assert values["report"]["notes"] == values["stats"]["notes"] == [TEXT]
    earlier = EngineMeasurements.read_from_folder(tmp_path)
    assert earlier is not None
    assert earlier.report.notes == earlier.stats.notes == [text_note(TEXT)]
    assert earlier.stats.row_shortages == [SequenceShortage(rows=2, asked_rows=4)]


def test_a_start_that_says_the_same_again_says_it_once(tmp_path: Path) -> None:
    measured().write_measurements_to_folder(tmp_path)
    whole = measured().add_earlier_measurements(EngineMeasurements.read_from_folder(tmp_path))
    assert whole.stats.prefill_tokens == 10
    assert whole.stats.notes == [text_note(TEXT)]
    assert whole.stats.row_shortages == [SequenceShortage(rows=2, asked_rows=4)]

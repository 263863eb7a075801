"""Measurements on disk: what another version or machine has measured does not count."""

from __future__ import annotations

from pathlib import Path

import pytest
from raising import raises

from runner.records.measurements import MEASUREMENTS, MeasurementFile, make_measurement_notes
from runner_base import machine
from runner_base.errors import RunRecordError
from runner_base.notes import note
from runner_base.signed_jsonl import dump_signed_line


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    file = MeasurementFile(tmp_path)
    assert file.earlier == []
    file.append_measurement(cell="a", seconds=1.5)
    file.close()
    with (tmp_path / MEASUREMENTS).open("a") as torn:
        torn.write('{"cell": "b", "sec')
    again = MeasurementFile(tmp_path)
    assert [(line["cell"], line["seconds"]) for line in again.earlier] == [("a", 1.5)]
    assert again.outdated == 0
    assert (tmp_path / MEASUREMENTS).read_bytes().endswith(b"\n"), "the torn line was cut off"


def test_another_version_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(machine, "MEASURED_LIBRARIES", (*machine.MEASURED_LIBRARIES, "hydra-core"))
        file = MeasurementFile(tmp_path)
        file.append_measurement(cell="a", seconds=1.5)
        file.close()
    file = MeasurementFile(tmp_path)
    assert (file.earlier, file.outdated) == ([], 1)
    assert make_measurement_notes(0, 9, file.outdated) == [note("measured_again", lines=1, file=MEASUREMENTS)]


def test_a_line_without_conditions_is_damaged(tmp_path: Path) -> None:
    (tmp_path / MEASUREMENTS).write_text(dump_signed_line({"cell": "a"}) + "\n")
    with raises(RunRecordError, "damaged"):
        MeasurementFile(tmp_path)

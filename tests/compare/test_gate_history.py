"""The nights of a gate: what the file keeps, and what it allows a night to say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runner_compare import main
from runner_compare.release_gate.history import read_nightly_gate_reports, share_of_night
from runner_compare.release_gate.verdicts import GateVerdict
from tools.gate_situations import MARGIN, SAME, WORSE, Job


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Job("none", name="gsm8k-base").write(tmp_path / "base")
    assert main(["pack", str(tmp_path / "base"), "-o", str(tmp_path / "base.runner.gz")]) == 0
    SAME.write(tmp_path / "jobs" / "0")
    return tmp_path


def words(folder: Path, *more: str, baseline: str = "base.runner.gz") -> list[str]:
    history = str(folder / "nights.jsonl")
    return [
        "gate",
        str(folder / baseline),
        str(folder / "jobs"),
        *MARGIN,
        "--json",
        "--history",
        history,
        *more,
    ]


def test_nights_are_counted_for_each_baseline(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for night in (1, 2, 3):
        write_new_result(folder, night)
        assert main(words(folder)) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["night"] == night
    Job("none", name="gsm8k-newer", params={"seed": "1"}).write(folder / "newer")
    assert main(["pack", str(folder / "newer"), "-o", str(folder / "newer.runner.gz")]) == 0
    capsys.readouterr()
    main(words(folder, baseline="newer.runner.gz"))
    assert json.loads(capsys.readouterr().out)["night"] == 1, "another baseline"
    assert [night.night for night in read_nightly_gate_reports(folder / "nights.jsonl")] == [1, 2, 3, 1]


def write_new_result(folder: Path, night: int) -> None:
    """Write the result of another run with the same answers."""
    shutil.rmtree(folder / "jobs" / "0")
    replace(SAME, name=f"gsm8k-{night}").write(folder / "jobs" / "0")


def test_the_same_results_belong_to_the_same_night(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        assert main(words(folder)) == 0
        assert json.loads(capsys.readouterr().out)["night"] == 1
    WORSE.write(folder / "jobs" / "1")
    for _ in range(2):
        assert main(words(folder)) == 1
        assert json.loads(capsys.readouterr().out)["night"] == 2
    assert [night.night for night in read_nightly_gate_reports(folder / "nights.jsonl")] == [1, 2]


def test_all_nights_share_the_error() -> None:
    assert sum(map(share_of_night, range(1, 100_000))) <= 1
    assert share_of_night(1) == 1 / 2
    assert share_of_night(12) == 1 / 156


def test_a_loss_must_be_shown_at_the_error_of_the_night(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss that one night shows is not enough on night 100; a clear loss is."""
    Job("nf4", 30, 2).write(folder / "jobs" / "1")
    WORSE.write(folder / "jobs" / "2")
    assert main(words(folder)) == 1
    found = {it["name"]: it["checks"][0] for it in json.loads(capsys.readouterr().out)["candidates"]}
    assert {name: check["verdict"] for name, check in found.items()} == {
        "nf4": "NO-GO", "fp4": "NO-GO", "int8": "GO",
    }  # fmt: skip
    night = (folder / "nights.jsonl").read_text()
    (folder / "nights.jsonl").write_text(night * 99)
    write_new_result(folder, 100)
    assert main(words(folder)) == 1
    report = json.loads(capsys.readouterr().out)
    found = {it["name"]: it["checks"][0] for it in report["candidates"]}
    assert report["night"] == 100
    assert (found["nf4"]["verdict"], found["nf4"]["reason"]) == ("ASK", "beyond_share")
    assert found["fp4"]["verdict"] == "NO-GO"
    assert found["int8"]["verdict"] == "GO", "a GO has its own error each night"


def test_a_line_that_was_cut_off_does_not_count_and_a_damaged_one_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "nights.jsonl"
    assert main(words(folder)) == 0
    whole = file.read_text()
    file.write_text(whole + whole[:40])
    write_new_result(folder, 2)
    assert main(words(folder)) == 0
    assert [night.night for night in read_nightly_gate_reports(file)] == [1, 2]
    file.write_bytes(b"\xff\n" + whole.encode())
    assert main(words(folder)) == 2
    assert main(["gate", "history", str(file)]) == 2
    file.write_text("{}\n" + whole)
    capsys.readouterr()
    assert main(words(folder)) == 2
    assert f"{file}, line 1" in capsys.readouterr().err
    assert file.read_text() == "{}\n" + whole, "nothing is lost"


@pytest.mark.slow
def test_several_gates_at_once_are_a_night_for_each_result(folder: Path) -> None:
    others = [folder / f"jobs-{number}" for number in range(3)]
    for number, jobs in enumerate(others):
        replace(SAME, name=f"gsm8k-{number}").write(jobs / "0")
    command = [sys.executable, "-m", "runner_compare"]
    programs = [
        [str(jobs) if word == str(folder / "jobs") else word for word in [*command, *words(folder)]]
        for jobs in others
    ]
    running = [subprocess.Popen(program, stdout=subprocess.PIPE, text=True) for program in programs]
    nights = [json.loads(process.communicate(timeout=120)[0])["night"] for process in running]
    assert sorted(nights) == [1, 2, 3]
    assert [night.night for night in read_nightly_gate_reports(folder / "nights.jsonl")] == [1, 2, 3]


def test_the_history_is_a_table_and_a_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    WORSE.write(folder / "jobs" / "1")
    for night in (1, 2):
        write_new_result(folder, night)
        main(words(folder))
    capsys.readouterr()
    picture = folder / "nights.png"
    assert main(["gate", "history", str(folder / "nights.jsonl"), "--save", str(picture)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] in (["1"], ["2"])]
    assert len(rows) == 2
    assert all(GateVerdict.no_go in row and GateVerdict.go in row for row in rows)
    assert picture.read_bytes().startswith(b"\x89PNG")

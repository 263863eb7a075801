"""The energy of whole jobs, counted by a made counter: 10 W idle, and 40 W more for each second of
processor time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.config.root import RunnerConfig
from runner.core import energy as counters
from runner.run import run
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base import machine
from runner_base.result import Result
from runner_compare.features.right_answers import section as right_answers
from runner_compare.model.data import Run, Table, TableRow
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
IDLE_W, BUSY_W = 10.0, 40.0


@contextmanager
def counter(root: Path) -> Iterator[Path]:
    """Let a counter in a folder like the kernel's go on, with known watts."""
    folder = root / "intel-rapl:0"
    folder.mkdir(parents=True)
    (folder / "max_energy_range_uj").write_text("1000000000000")
    ended = threading.Event()

    def write() -> None:
        joules = IDLE_W * time.monotonic() + BUSY_W * time.process_time()
        whole = folder / "energy_uj.new"
        whole.write_text(str(round(joules * 1e6)))
        whole.replace(folder / "energy_uj")

    def go_on() -> None:
        while not ended.wait(0.002):
            write()

    write()
    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield root
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run beside each other: that is no other program here."""
    monkeypatch.setattr(machine.Contention, "describe_load_by_other_programs", lambda _: "")


def measured(make_config: Make, folder: Path, monkeypatch: pytest.MonkeyPatch, **keys: object) -> Result:
    with counter(folder / "powercap") as root:
        monkeypatch.setattr(counters, "POWERCAP", root)
        model = LocalModelConfig(name="embedded", device="cpu")
        return run(
            make_config(model=model, task=Gsm8kConfig(limit=24), output_dir=str(folder / "out"), **keys)
        ).result


@pytest.mark.thorough
@pytest.mark.usefixtures("quiet")
def test_known_watts_are_found(make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.process_time()
    metrics = measured(make_config, tmp_path, monkeypatch, price_kwh=0.30).metrics
    of_process_j = BUSY_W * (time.process_time() - began)  # with the load, which is not counted
    # other processes may hold back the thread that writes the counter;
    # tests/core/test_job_energy.py has exact watts
    assert IDLE_W / 2 < metrics["idle_w"] < IDLE_W + BUSY_W
    assert 0 < metrics["energy_net_j"] < of_process_j
    assert metrics["energy_net_j"] < metrics["energy_j"]
    parts = [metrics["energy_prefill_j"], metrics["energy_decode_j"]]
    assert min(parts) > 0
    # between the parts the counter may be behind its idle power, for the same reason
    assert sum(parts) <= metrics["energy_net_j"] * 1.1
    assert metrics["joules_per_right_answer"] == pytest.approx(metrics["energy_net_j"] / metrics["correct"])
    assert metrics["energy_cost"] == pytest.approx(metrics["energy_j"] / 3.6e6 * 0.30)


@pytest.mark.thorough
def test_beside_other_work_nothing_is_counted(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        machine.Contention,
        "describe_load_by_other_programs",
        lambda _: "beside other work that used 1.5 of 2 cores",
    )
    result = measured(make_config, tmp_path, monkeypatch, price_kwh=0.30)
    assert "energy_j" not in result.metrics
    assert result.facts["energy"].startswith(
        "not measured: beside other work that used 1.5 of 2 cores, and the counters"
    )
    assert any(
        note.startswith("price_kwh=0.3 has no effect") and "not measured" in note for note in result.notes
    )


@pytest.mark.usefixtures("quiet")
def test_without_a_counter_one_line_says_what_would_give_one(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "POWERCAP", tmp_path / "nothing")
    config = make_config(task=Gsm8kConfig(limit=2), output_dir=str(tmp_path / "out"), price_kwh=0.30)
    (note,) = [note for note in run(config).result.notes if "price_kwh" in note]
    assert "no CPU energy counter (RAPL)" in note
    assert "chmod a+r" in note
    kept = json.loads(next(tmp_path.glob("out/jobs/*/measured.json")).read_text())
    assert kept["energy"]["gross_j"] == 0


@pytest.mark.thorough
@pytest.mark.usefixtures("quiet")
def test_a_comparison_shows_joules_beside_tokens_and_seconds(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = measured(make_config, tmp_path, monkeypatch)
    of_job = Run("1", "gsm8k-1", "gsm8k", "4", "", {"seed": "0"}, dict(result.metrics))
    table = Table("gsm8k", ["seed"], [TableRow(of_job, {"seed": "0"})])
    (columns,) = right_answers.SECTION.tables(table).values()
    heads = [column.head for column in columns]
    assert {f"{what} /right\nanswer" for what in ("s", "tokens", "money", "J")} <= set(heads)
    (joules,) = (column.cells for column in columns if column.head == "J /right\nanswer")
    assert joules == [format(result.metrics["joules_per_right_answer"], ".3g")]
    record = right_answers.SECTION.row_record(table, table.rows[0])
    assert record["energy"]["energy_net_j"] == result.metrics["energy_net_j"]
    assert record["right_answer"]["seconds"] == result.metrics["right_answer_s"] > 0
    assert right_answers.SECTION.sentences(table) == [
        "cost per correct answer: time, tokens and energy are known of all rows; "
        "money is not known of seed=0 (no price_kwh)"
    ]

"""Packed speed and memory as the baseline of a gate. The true ratios are planted."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from raising import raises

from runner_base import DataError, Record, Result, Status
from runner_base.repeats import FRESH_PROCESSES, REPEATS_FACT, format_repeated_measurements_as_jsonl
from runner_compare import main
from runner_compare.readers.load import load_results
from runner_compare.release_gate.pack import PackedCounts, pack_job

MACHINE = "AMD EPYC, 2 cores, 24 GiB, GPUs: none"
NOISE = (1.0, 1.004, 0.997, 1.002, 0.995)  # of runs, relative
SPEED = "decode_tok_per_s/batch_1_prompt_64"
Gate = Callable[..., tuple[int, Any]]


@dataclass(frozen=True)
class Measured:
    """A measuring job with one process per factor of noise, or with one repeat per factor."""

    quantization: str
    speed: float = 100.0
    memory: float = 400.0
    noise: Sequence[float] = NOISE
    machine: str = MACHINE
    params: dict[str, str] = field(default_factory=dict)
    name: str = ""
    day: int = 1

    def write_sweeps(self, folder: Path) -> Path:
        """Write one folder per process, and return the newest."""
        for hour, factor in enumerate(self.noise):
            speed = self.speed * factor
            values = {SPEED: [0.97 * speed, speed, 1.02 * speed]}
            self._write(folder / f"{hour}" / "jobs" / f"sweep-{self._job_name}", "sweep", values, hour)
        return folder / f"{len(self.noise) - 1}" / "jobs" / f"sweep-{self._job_name}"

    def write_memory(self, folder: Path) -> Path:
        values = {
            "peak_rss_mib": [self.memory * factor for factor in self.noise],
            "load_s": [factor * 100 / self.speed for factor in self.noise],
        }
        folder = folder / "jobs" / f"memory-{self._job_name}"
        self._write(folder, "memory", values, 0, {REPEATS_FACT: FRESH_PROCESSES})
        return folder

    @property
    def _job_name(self) -> str:
        return self.name or self.quantization

    def _write(
        self,
        folder: Path,
        task: str,
        values: dict[str, list[float]],
        hour: int,
        facts: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        (folder / "repeats.jsonl").write_text(format_repeated_measurements_as_jsonl(values))
        medians = {measure: median(repeats) for measure, repeats in values.items()}
        record = Record(
            f"{task}-{self._job_name}",
            Status.FINISHED,
            str(folder),
            Result(medians, facts={"machine": self.machine, "measured": "alone"} | (facts or {})),
            task=task,
            task_version=3,
            params={
                "model.name": "m",
                "quantization.name": self.quantization,
                "task.name": task,
                "task.repeats": "3",
                "task.batch_size": "8",
            }
            | self.params,
            started_at=f"2026-11-{self.day:02}T{hour:02}:00:00+00:00",
        )
        (folder / "result.json").write_text(record.to_json())


BASE = Measured("none")


@pytest.fixture
def gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Gate:
    """Return a function that compares the folder `jobs` with the packed baseline."""

    def call(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        words = ["gate", str(tmp_path / "base.runner.gz"), str(tmp_path / "jobs"), "--json", *arguments]
        code = main(words)
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return call


@pytest.fixture
def packed_sweep(tmp_path: Path) -> Path:
    newest = BASE.write_sweeps(tmp_path / "base")
    (run,), _ = load_results([str(tmp_path / "base")])
    target = tmp_path / "base.runner.gz"
    assert pack_job(newest, target, recorded_run=run) == PackedCounts(questions=0, runs=5, repeats=3)
    return target


@pytest.fixture
def packed_memory(tmp_path: Path) -> Path:
    target = tmp_path / "base.runner.gz"
    assert main(["pack", str(BASE.write_memory(tmp_path / "base")), "-o", str(target)]) == 0
    return target


@pytest.mark.parametrize(("ratio", "verdict", "code"), [(0.99, "GO", 0), (1.2, "GO", 0), (0.88, "NO-GO", 1)])
def test_a_planted_loss_of_speed(
    gate: Gate, packed_sweep: Path, tmp_path: Path, ratio: float, verdict: str, code: int
) -> None:
    Measured("int8", speed=100 * ratio).write_sweeps(tmp_path / "jobs")
    found, report = gate("--margin", "5%")
    (candidate,) = report["candidates"]
    (check,) = candidate["checks"]
    assert (found, candidate["name"], check["verdict"], check["measure"]) == (code, "int8", verdict, SPEED)
    assert check["value"] == pytest.approx(ratio)
    assert check["low"] < ratio < check["high"]
    assert report["questions"] == 0
    assert packed_sweep.stat().st_size < 4096


def test_a_single_process_decides_nothing(gate: Gate, packed_sweep: Path, tmp_path: Path) -> None:
    Measured("int8", speed=50, noise=NOISE[:1]).write_sweeps(tmp_path / "jobs")
    assert gate("--margin", "5%")[0] == 3


@pytest.mark.parametrize(("ratio", "code"), [(1.01, 0), (1.1, 1)])
def test_each_repeat_of_a_memory_job_is_a_run(
    gate: Gate, packed_memory: Path, tmp_path: Path, ratio: float, code: int
) -> None:
    Measured("int8", memory=400 * ratio).write_memory(tmp_path / "jobs")
    found, report = gate("--margin", "5%")
    checks = {check["measure"]: check for check in report["candidates"][0]["checks"]}
    assert checks["peak_rss_mib"]["value"] == pytest.approx(ratio)
    assert (found, checks["load_s"]["verdict"]) == (code, "GO")


def test_speeds_of_another_machine_are_refused_and_memory_is_not(
    gate: Gate, packed_memory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Measured("int8", machine="Intel Xeon, 8 cores").write_memory(tmp_path / "jobs")
    code, report = gate("--margin", "5%")
    checks = {
        check["measure"]: (check["verdict"], check["reason"]) for check in report["candidates"][0]["checks"]
    }
    assert code == 2
    assert checks == {"peak_rss_mib": ("GO", "within"), None: ("ERROR", "other_machine")}
    main(["gate", str(packed_memory), str(tmp_path / "jobs"), "--margin", "5%"])
    out = " ".join(capsys.readouterr().out.split())
    assert MACHINE in out
    assert "Intel Xeon, 8 cores" in out


def test_a_measure_that_only_the_baseline_has_is_no_go(
    gate: Gate, packed_memory: Path, tmp_path: Path
) -> None:
    """A cell that runs out of memory has no repeats."""
    folder = Measured("int8").write_memory(tmp_path / "jobs")
    (folder / "repeats.jsonl").write_text(format_repeated_measurements_as_jsonl({"load_s": NOISE}))
    code, report = gate("--margin", "5%")
    reasons = {check["reason"]: check["verdict"] for check in report["candidates"][0]["checks"]}
    assert (code, reasons) == (1, {"within": "GO", "missing_measure": "NO-GO"})


def test_another_workload_is_refused(gate: Gate, packed_memory: Path, tmp_path: Path) -> None:
    Measured("int8", params={"task.batch_size": "16"}).write_memory(tmp_path / "jobs")
    assert gate("--margin", "5%") == (2, None)
    Measured("nf4").write_memory(tmp_path / "jobs")
    code, report = gate("--margin", "5%")
    assert (code, [candidate["name"] for candidate in report["candidates"]]) == (0, ["nf4"])


def test_runs_of_the_baseline_are_no_runs_of_the_candidate(
    gate: Gate, packed_sweep: Path, tmp_path: Path
) -> None:
    """An output folder keeps old runs, so tonight's build of the baseline's settings has them as repeats."""
    BASE.write_sweeps(tmp_path / "jobs" / "old")
    Measured("none", speed=50, noise=NOISE[:1], day=2).write_sweeps(tmp_path / "jobs" / "new")
    code, report = gate("--margin", "5%")
    (check,) = report["candidates"][0]["checks"]
    assert (code, check["verdict"]) == (3, "ASK"), "1 run, not 6"
    assert check["value"] == pytest.approx(0.5, abs=0.01)


def test_copies_of_a_run_are_one_run(tmp_path: Path) -> None:
    """MLflow keeps copies of results and repeats below the output folder."""
    for place in ("outputs", "mlartifacts"):
        Measured("none", noise=NOISE[:2]).write_sweeps(tmp_path / "jobs" / place)
    (run,), _ = load_results([str(tmp_path / "jobs")])
    assert len(run.earlier) == 1


def test_a_changed_pack_and_wrong_repeats_are_refused(
    gate: Gate, packed_memory: Path, tmp_path: Path
) -> None:
    content = gzip.decompress(packed_memory.read_bytes())
    packed_memory.write_bytes(gzip.compress(content.replace(b'"value": 4', b'"value": 3', 1)))
    Measured("int8").write_memory(tmp_path / "jobs")
    assert gate("--margin", "5%") == (2, None)

    folder = Measured("nf4").write_memory(tmp_path / "wrong")
    (folder / "repeats.jsonl").write_text(
        format_repeated_measurements_as_jsonl({"peak_rss_mib": [1.0, 2.0, 3.0]})
    )
    with raises(DataError, "mismatch", folder / "repeats.jsonl"):
        pack_job(folder, tmp_path / "wrong.runner.gz")
    (folder / "repeats.jsonl").unlink()
    with raises(DataError, "unsupported", folder):
        pack_job(folder, tmp_path / "wrong.runner.gz")


def test_a_pack_names_no_place(packed_sweep: Path, tmp_path: Path) -> None:
    assert str(tmp_path).encode() not in gzip.decompress(packed_sweep.read_bytes())


@pytest.mark.thorough
def test_memory_of_the_embedded_model(runner: Any, tmp_path: Path) -> None:
    """Two runs of the same model use the same memory."""
    words = ("task=memory", "task.repeats=4", "task.pictures=false")
    assert runner(*words).code == 0
    packed = ("pack", "task.name=memory", "-o", str(tmp_path / "base.runner.gz"))
    assert runner(*packed, module="runner_compare").code == 0
    assert runner(*words, "output_dir=tonight").code == 0
    gate = runner("gate", "base.runner.gz", "tonight", "--margin", "5%", "--json", module="runner_compare")
    checks = {check["measure"]: check for check in gate.json()["candidates"][0]["checks"]}
    assert checks["peak_rss_mib"]["verdict"] == "GO"
    assert checks["peak_rss_mib"]["value"] == pytest.approx(1, abs=0.02)

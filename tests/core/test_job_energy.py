"""The energy of a job, from a made counter whose watts are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runner.core import energy as counters
from runner.core.energy import EnergyCounters
from runner.core.job_energy import JobEnergyMeter, JobJoules, compute_energy_metrics
from runner_base.notes import note
from runner_base.result import Answer, FinishReason, Sample, Verdict
from runner_compare.features.front.compute import mark_pareto_front
from runner_compare.model.data import Run, Table, TableRow
from runner_engine import EngineStats

IDLE_W, PREFILL_W, DECODE_W = 10.0, 50.0, 30.0


@dataclass
class Machine:
    """A machine whose counter and clock go on as it is told, with known watts."""

    root: Path
    speed: float = 1.0  # of the counter
    now: float = 100.0
    joules: float = 0.0
    stats: EngineStats = field(default_factory=EngineStats)

    def __post_init__(self) -> None:
        folder = self.root / "intel-rapl:0"
        folder.mkdir(parents=True)
        (folder / "max_energy_range_uj").write_text("1000000000000")
        self.pass_time(0, 0)

    def pass_time(self, seconds: float, watts: float) -> None:
        self.now += seconds
        self.joules += watts * seconds * self.speed
        (self.root / "intel-rapl:0" / "energy_uj").write_text(str(round(self.joules * 1e6)))

    def idle(self, seconds: float) -> None:
        self.pass_time(seconds, IDLE_W)

    def work(self, prefill_s: float, decode_s: float) -> None:
        self.pass_time(prefill_s, IDLE_W + PREFILL_W)
        self.stats.prefill_s += prefill_s
        self.pass_time(decode_s, IDLE_W + DECODE_W)
        self.stats.decode_s += decode_s


def counted_on(machine: Machine, beside: str = "") -> JobEnergyMeter:
    """Count a job of 20 steps: half a second of prefill, two of decode, and a wait after each."""
    job = JobEnergyMeter(EnergyCounters(machine.root), lambda: beside, lambda: machine.now)
    job.measure_idle_power(machine.stats, machine.idle)
    for _ in range(20):
        machine.work(0.5, 0.0)
        job.add_energy_since_last_step(machine.stats)
        machine.work(0.0, 2.0)
        job.add_energy_since_last_step(machine.stats)
        machine.idle(0.25)
        job.add_energy_since_last_step(machine.stats)
    return job


def sample(index: int, verdict: Verdict, reused_from: str | None = None) -> Sample:
    answer = Answer(text="", token_ids=[], finish_reason=FinishReason.stop, verdict=verdict)
    return Sample(
        index=index, prompt_sha256="", prompt_tokens=1, seconds=1.0, answer=answer, reused_from=reused_from
    )


def test_prefill_and_decode_are_told_apart_from_idling(tmp_path: Path) -> None:
    job = counted_on(Machine(tmp_path))
    assert job.idle_w == pytest.approx(IDLE_W)
    so_far = job.so_far
    assert so_far.prefill_j == pytest.approx(20 * 0.5 * PREFILL_W)
    assert so_far.decode_j == pytest.approx(20 * 2.0 * DECODE_W)
    assert so_far.net_j == pytest.approx(so_far.prefill_j + so_far.decode_j)
    assert so_far.gross_j == pytest.approx(so_far.net_j + 20 * 2.75 * IDLE_W)
    assert job.explain_unavailable_energy() is None


def test_a_counter_that_runs_twice_as_fast_is_seen(tmp_path: Path) -> None:
    """The control."""
    assert counted_on(Machine(tmp_path, speed=2.0)).so_far.net_j == pytest.approx(
        2 * counted_on(Machine(tmp_path / "plain")).so_far.net_j
    )


def test_a_setting_whose_counter_runs_twice_as_fast_leaves_the_front(tmp_path: Path) -> None:
    """Four runs of each job; the control is a counter as fast as the baseline's, which differs by
    noise alone."""
    answers = [sample(0, Verdict.correct), sample(1, Verdict.wrong)]

    def row(job: str, speed: float) -> TableRow:
        runs = []
        for number, noise in enumerate((1.0, 1.01, 0.99, 1.005)):
            machine = Machine(tmp_path / f"{job} {number}", speed=speed * noise)
            metrics = {"n": 200.0, "correct": 180.0, "model_mib": 100.0, "decode_tok_per_s": 50.0}
            metrics |= compute_energy_metrics(counted_on(machine).so_far, answers, None)
            metrics["decode_tok_per_s"] *= noise
            runs.append(Run(job, job, "gsm8k", "1", "", {}, metrics))
        runs[0].earlier = runs[1:]
        return TableRow(runs[0], {})

    for speed, falls in ((2.0, "true"), (1.0, None)):
        rows = [row(f"true at {speed}", 1.0), row(f"other at {speed}", speed)]
        mark_pareto_front(Table("gsm8k", [], rows), margins={"accuracy": 0.2})
        assert rows[0].on_front
        assert (rows[1].dominated_by or "").startswith(falls or ""), speed
        assert rows[1].on_front is (falls is None)
        assert rows[1].dominated_in == ([] if falls is None else ["joules_per_question"])
    assert rows[0].run.metrics["joules_per_question"] == pytest.approx(
        20 * (0.5 * PREFILL_W + 2.0 * DECODE_W) / 2
    )


def test_answers_that_were_reused_cost_nothing(tmp_path: Path) -> None:
    joules = counted_on(Machine(tmp_path)).so_far
    samples = [sample(0, Verdict.correct), sample(1, Verdict.wrong), sample(2, Verdict.correct, "gsm8k-1")]
    found = compute_energy_metrics(joules, samples, price_kwh=0.36)
    # one right answer was given here
    assert found["joules_per_right_answer"] == pytest.approx(joules.net_j)
    assert found["joules_per_question"] == pytest.approx(joules.net_j / 2)
    assert found["energy_cost_per_right_answer"] == found["energy_cost"]
    assert found["energy_wh"] == pytest.approx(joules.gross_j / 3600)
    assert found["energy_cost"] == pytest.approx(joules.gross_j / 3600 / 1000 * 0.36)
    assert "joules_per_right_answer" not in compute_energy_metrics(joules, samples[1:2], None)
    assert compute_energy_metrics(JobJoules(), samples, 0.36) == {}


def test_a_shared_machine_is_not_counted(tmp_path: Path) -> None:
    beside = "beside other work that used 1.0 of 2 cores"
    assert counted_on(Machine(tmp_path), beside=beside).explain_unavailable_energy() == note(
        "shared_counters", other=note("other_work", what=beside)
    )


def test_no_counter_is_said_with_what_would_give_one(tmp_path: Path) -> None:
    job = JobEnergyMeter(EnergyCounters(tmp_path), lambda: "")
    job.measure_idle_power(EngineStats())
    job.add_energy_since_last_step(EngineStats(prefill_s=1.0), ignore_interval=True)
    assert job.so_far == JobJoules()
    assert job.explain_unavailable_energy() == note("no_counters", reasons=(note("no_rapl"),))


def test_starts_of_one_job_add_up() -> None:
    first, second = JobJoules(10, 2, 3, 5, 1), JobJoules(20, 4, 6, 10, 2)
    assert first + second == JobJoules(30, 6, 9, 15, 3)


def test_the_counters_folder_is_read_when_a_job_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(tmp_path)
    monkeypatch.setattr(counters, "POWERCAP", tmp_path)
    assert EnergyCounters().sources == "1 CPU packages (RAPL)"

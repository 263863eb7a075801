"""The table, the finding and the gate by generated position, of jobs whose divergence is planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner_base import Answer, FinishReason, Likelihood, Record, Result, Sample, Status
from runner_base.generated_positions import split_by_generated_position
from runner_compare import build_text_likelihood_records, main

LENGTHS = [*range(300, 500, 4), *range(1300, 1500, 4)]  # fifty short answers, and fifty long ones
KL = 0.02


def write_job(folder: Path, quantization: str, factor_by_bin: dict[int, float], seed: int) -> None:
    """Write a job whose answers have this KL times a factor of each bin; without factors, it is the reference."""
    folder.mkdir(parents=True)
    random, likelihoods = np.random.default_rng(seed), []
    for unit, length in enumerate(LENGTHS):
        level = KL * float(random.lognormal(-0.02, 0.2))
        sums: list[list[float]] = []
        for first, end in split_by_generated_position(length):
            kl = [factor_by_bin.get(first, 1.0) * level * (end - first), end - first] if factor_by_bin else []
            sums.append([first, end - first, -2.0 * (end - first), *kl])
        divergence: dict[str, Any] = {"kl_nats": sum(row[3] for row in sums), "truncation_nats": 0.0,
                                      "kl_variance": 0.0, "top_1_agreed": length} if factor_by_bin else {}  # fmt: skip
        likelihoods.append(
            Likelihood(unit, -2.0 * length, length, length, length, 0, by_answer_position=sums, **divergence)
        )
    samples = [
        Sample(
            Answer("", [unit, 1], FinishReason.stop),
            f"{unit:064x}",
            5,
            0.1,
            index=unit,
            likelihood=likelihood,
        )
        for unit, likelihood in enumerate(likelihoods)
    ]
    (folder / "samples.jsonl").write_text("".join(f"{sample.to_json()}\n" for sample in samples))
    records = build_text_likelihood_records(likelihoods, {})
    record = Record(
        folder.name,
        Status.FINISHED,
        str(folder),
        Result(records.metrics, tables=records.tables, series=records.series),
        task="likelihood",
        task_version=1,
        params={"model.name": "m", "quantization.name": quantization, "task.name": "likelihood"},
        started_at=f"2026-11-30T10:00:00+00:00 {folder.name}",
    )
    (folder / "result.json").write_text(record.to_json())


@pytest.fixture
def jobs(tmp_path: Path) -> dict[str, str]:
    factors: dict[str, dict[int, float]] = {"none": {}, "flat": {0: 1.0}, "late": {256: 4.0, 1024: 4.0}}
    for seed, (name, factor_by_bin) in enumerate(factors.items()):
        write_job(tmp_path / f"likelihood-{name}", name, factor_by_bin, seed)
    return {name: str(tmp_path / f"likelihood-{name}") for name in factors}


def test_only_the_job_with_a_planted_growth_has_a_finding(
    jobs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--baseline", "quantization=none", "--results", *jobs.values()]
    assert main(["--format", "json", "--save", str(tmp_path / "saved"), *words]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    found = {row["config"]["quantization.name"]: row.get("answer_positions") for row in table["rows"]}
    assert found["none"] is None
    assert (found["flat"]["kl_larger_from"], found["late"]["kl_larger_from"]) == (None, 256)
    by_bin = {one["first_token"]: one for one in found["late"]["bins"]}
    assert {first: one["answers"] for first, one in by_bin.items()} == {64: 100, 256: 100, 1024: 50}
    assert by_bin[256]["simultaneous_low"] < 3 * KL < by_bin[256]["simultaneous_high"]
    assert by_bin[64]["kl_growth"] == pytest.approx(0, abs=1e-9)
    assert (tmp_path / "saved" / "answer_positions.png").is_file() or list(
        (tmp_path / "saved").glob("*answer_positions*")
    )
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    (head,) = (number for number, line in enumerate(lines) if "1,024–4,095" in line and "16–63" in line)
    rows = [line.split() for line in lines[head + 2 : head + 4]]
    assert [(row[0], len(row), row[-1]) for row in rows] == [("flat", 7, "–"), ("late", 7, "256")]
    assert [float(cell) for cell in rows[1][1:6]] == pytest.approx([KL, KL, KL, 4 * KL, 4 * KL], rel=0.05)


@pytest.mark.parametrize(("first", "code"), [(0, 0), (64, 0), (1024, 1)])
def test_a_gate_can_limit_the_kl_of_late_positions(
    jobs: dict[str, str], first: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    limit = f"kl_nats_per_token/generated_{first}={2 * KL}"
    assert main(["gate", jobs["none"], jobs["late"], "--max", limit]) == code

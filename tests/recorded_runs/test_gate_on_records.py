"""A gate on recorded jobs: the baseline is named by its settings, and verdicts go to MLflow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stores import NF4, NONE, Store, marks

from runner_base import Record, Result, Status
from runner_compare import main
from runner_compare.readers.load import load_results

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]
N = 400
INT8 = {"quantization.name": "int8"}


@pytest.fixture
def words(store: Store) -> list[str]:
    """Record three jobs, and return the arguments that compare them."""
    store.job("gate", "base", NONE, marks(300, N))
    store.job("gate", "worse", NF4, marks(220, N))
    store.job("gate", "same", INT8, marks(300, N, 2))
    folder = [
        "--output-dir",
        str(store.output_dir),
        "--tracking-uri",
        f"sqlite:///{store.output_dir}/mlflow.db",
        "--experiment",
        "gate",
    ]
    return ["gate", "quantization=none", *folder, "--margin", "3", "--json"]


def test_the_verdict_and_its_numbers_go_to_each_run(
    store: Store, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main([*words, "--log"]) == 1
    found = {it["name"]: it for it in json.loads(capsys.readouterr().out)["candidates"]}
    assert {name: it["verdict"] for name, it in found.items()} == {"nf4": "NO-GO", "int8": "GO"}
    experiment = store.client.get_experiment_by_name("gate")
    assert experiment is not None
    runs = {
        run.data.tags["job_id"]: run.data
        for run in store.client.search_runs([experiment.experiment_id])
        if "job_id" in run.data.tags
    }
    assert {job: data.tags.get("verdict") for job, data in runs.items()} == {
        "base": None, "worse": "NO-GO", "same": "GO",
    }  # fmt: skip
    (check,) = found["nf4"]["checks"]
    logged = {key: runs["worse"].metrics[key] for key in ("delta_points", "delta_low", "delta_high")}
    assert logged == pytest.approx(
        {"delta_points": -20.0, "delta_low": 100 * check["low"], "delta_high": 100 * check["high"]}
    )
    assert runs["same"].metrics["further_questions"] == 0
    assert "delta_points" not in runs["base"].metrics
    assert main(words) == 1, "the logged numbers change no later comparison"


def test_a_gate_on_files_has_no_run_to_log_to(words: list[str], store: Store) -> None:
    words[1] = str(store.output_dir)
    assert main([*words, "--log"]) == 2


def test_the_baseline_is_no_candidate_of_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    main([*words, "--expect", "none,nf4,int8"])
    assert {it["name"] for it in json.loads(capsys.readouterr().out)["candidates"]} == {"nf4", "int8"}


@pytest.mark.thorough
def test_a_missing_candidate_of_a_failed_grid_is_no_go(runner: Callable[..., Any], tmp_path: Path) -> None:
    """The embedded model has no gptq weights. What is on disk is deleted before the second gate."""
    from mlflow import MlflowClient

    grid = ("-m", "quantization=none,int8,gptq", "task.limit=60", "task.cluster=null")
    assert runner(*grid).code == 2, "a job cannot work"
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'runner'")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs if "job_id" not in run.data.tags] == ["FAILED"]

    words = ("gate", "quantization=none", "--grid", "last", "--margin", "20", "--json")
    for deleted in ((), ("jobs", "grids")):
        for folder in deleted:
            shutil.rmtree(tmp_path / "outputs" / folder)
        gate = runner(*words, module="runner_compare")
        report = gate.json()
        assert (gate.code, report["verdict"]) == (1, "NO-GO"), deleted
        assert {it["name"]: it["verdict"] for it in report["candidates"]} == {
            "quantization=gptq": "NO-GO", "int8": "GO",
        }, deleted  # fmt: skip


def test_a_pack_of_a_sweep_has_the_recorded_runs(store: Store, tmp_path: Path) -> None:
    """Results that rerun=all has replaced are only in MLflow. A run beside other work does not count."""
    measure, speeds = "decode_tok_per_s/batch_8_prompt_64", (100.0, 104.0, 50.0, 101.0, 103.0)
    for speed in speeds:
        facts = {"machine": "m", "measured": "beside other work" if speed == 50 else "alone"}
        repeats = [{"measure": measure, "repeat": at, "value": speed + at} for at in (-1, 0, 1)]
        folder = store.job(
            "runner",
            "sweep-base",
            {**NONE, "task.name": "sweep", "task.repeats": "3"},
            repeats=repeats,
            metrics={measure: speed},
            tags={"task": "sweep"} | {f"fact.{key}": value for key, value in facts.items()},
        )
        result = Result({measure: speed}, facts=facts)
        params = {**NONE, "task.name": "sweep", "task.repeats": "3"}
        record = Record(
            "sweep-base",
            Status.FINISHED,
            str(folder),
            result,
            "sweep",
            1,
            params=params,
            started_at="2026-11-30T10:00:00+00:00",
        )
        (folder / "result.json").write_text(record.to_json())
    target = tmp_path / "base.runner.gz"
    words = ["pack", "quantization=none", "--task", "sweep", "--output-dir", str(store.output_dir)]
    assert main([*words, "-o", str(target)]) == 0
    (run,), _ = load_results([str(target)])
    assert [each.metrics[measure] for each in (run, *run.earlier)] == [103.0, 101.0, 104.0, 100.0]

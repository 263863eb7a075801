"""A grid's run in MLflow says what was varied, which jobs are the best, and whether that is a
difference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.grid.grid_output import build_job_labels
from runner.grid.parent_notes import MAX_TITLE, build_grid_params, format_grid_title
from runner.grid.plan import PlannedJob

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own


def plan_of(*jobs: str) -> list[PlannedJob]:
    return [PlannedJob(job.split()) for job in jobs]


def test_a_grid_is_called_by_its_study_or_by_what_varies() -> None:
    plan = plan_of("quantization=none seed=1", "quantization=int8 seed=1", "quantization=nf4 seed=1")
    assert format_grid_title(plan, "") == "quantization=none,int8,nf4"
    assert format_grid_title(plan, "which_layers") == "which_layers"
    assert format_grid_title(plan_of("seed=1"), "") == "grid of 1 job"
    assert build_grid_params(plan, "which_layers") == {
        "study": "which_layers", "jobs": "3", "quantization.name": "none,int8,nf4"
    }  # fmt: skip


def test_a_title_that_would_not_fit_counts_the_values() -> None:
    plan = plan_of(*(f"task.system=a_rather_long_text_{n} seed={n % 2}" for n in range(8)))
    assert format_grid_title(plan, "") == "task.system (8) × seed (2)"
    many = plan_of(*(" ".join(f"generation.a_long_key_{k}={n}" for k in range(9)) for n in range(3)))
    assert len(format_grid_title(many, "")) <= MAX_TITLE + 20
    assert format_grid_title(many, "").endswith("and 5 more: 3 jobs")


@pytest.mark.thorough
@pytest.mark.slow
def test_the_run_has_the_best_jobs_and_the_verdict_and_keeps_what_a_person_wrote(
    tmp_path: Path, runner: Callable[..., Any]
) -> None:
    from mlflow import MlflowClient

    grid = (
        "-m",
        "model.dtype=float32",
        "task.split=hard5",
        "task.limit=40",
        "lora=none,embedded",
        "print=none",
    )
    assert runner(*grid).code == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("runner")
    assert experiment is not None
    assert experiment.tags["mlflow.experiment.primaryMetric.name"] == "accuracy"

    def parent() -> Any:
        (run,) = client.search_runs([experiment.experiment_id], "tags.grid LIKE '%'")
        return run

    run = parent()
    children = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    )
    accuracies = {child.data.params["lora.name"]: child.data.metrics["accuracy"] for child in children}
    assert run.info.run_name == "lora=none,embedded"
    assert run.data.params == {"jobs": "2", "lora.name": "none,embedded"}
    assert (run.data.metrics["jobs_finished"], run.data.metrics["best_accuracy"]) == (
        2,
        max(accuracies.values()),
    )
    assert accuracies["peft"] > accuracies["none"], "the adapter was trained on these"
    assert run.data.tags["best"] == "lora=embedded"
    verdict = run.data.tags["verdict"]
    assert verdict.startswith("gsm8k, compared with lora=none: ")
    assert verdict.endswith(" is better than the baseline.")
    note = run.data.tags["mlflow.note.content"]
    assert "| lora=embedded |" in note
    assert note.startswith(f"- {verdict}")

    client.set_tag(run.info.run_id, "mlflow.note.content", "Ask Ann about this one.")
    assert runner(*grid, "rerun=all").code == 0
    assert parent().data.tags["mlflow.note.content"] == "Ask Ann about this one."
    assert parent().data.tags["best"] == "lora=embedded"


def test_the_label_of_a_single_job_has_neither_folders_nor_stores() -> None:
    overrides = (
        "quantization=nf4 print=none output_dir=/a/b tracking.uri=x model.name=/models/small task.limit=4"
    )
    assert build_job_labels(plan_of(overrides)) == ["quantization=nf4 model.name=small task.limit=4"]
    assert build_job_labels(plan_of("print=none")) == ["(no overrides)"]

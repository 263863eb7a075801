"""Of a likelihood's metrics MLflow gets forty; a comparison that has only MLflow finds the others
all the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner import compare
from runner.tracking.logged_metrics import LEFT_OUT, MOST, select_logged_metrics
from runner_compare.metrics import LOG_LIKELIHOOD

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own


def test_what_the_task_is_for_comes_first_and_other_tasks_keep_all() -> None:
    many = {f"delta_p_p{number:02}": 0.1 for number in range(60)} | {
        f"decode_tok_per_s/{n}": 1.0 for n in range(30)
    }
    first = {
        "errors": 0.0,
        "n": 20.0,
        "kl_nats_per_token": 0.1,
        "kl_nats_per_token_low": 0.05,
        LOG_LIKELIHOOD: -1.0,
    }
    kept = select_logged_metrics(many | first)
    assert len(kept) == MOST
    assert first.items() <= kept.items()
    assert not any("/" in key for key in kept)
    assert select_logged_metrics(many) == many, "a sweep's cells are what it is for"


@pytest.mark.thorough
@pytest.mark.slow
def test_a_comparison_from_mlflow_alone_says_what_one_from_the_folder_says(
    tmp_path: Path, runner: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    task = ("task=likelihood", "task.limit=60", "print=none", "model.dtype=float32")
    assert runner(*task, "task.keep_top_k=64").code == 0
    assert runner("-m", *task, "quantization=int8,nf4", "task.reference=quantization=none").code == 0
    outputs = tmp_path / "outputs"
    uri = f"sqlite:///{outputs / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("runner")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.task = 'likelihood'")
    assert [len(run.data.metrics) for run in runs] == [MOST] * 3
    assert all(int(run.data.tags[LEFT_OUT]) > 0 for run in runs)

    def compared(folder: Path) -> str:
        capsys.readouterr()
        asked = ["--output-dir", str(folder), "--tracking-uri", uri, "--baseline", "quantization=none"]
        assert compare.main(asked) == 0
        # the next command that it suggests names the folder
        return capsys.readouterr().out.partition("\nNext:")[0]

    from_folder = compared(outputs)
    assert "KL" in from_folder
    (tmp_path / "elsewhere").mkdir()
    shutil.move(outputs / "jobs", tmp_path / "jobs")
    (outputs / ".published.jsonl").unlink()
    assert compared(tmp_path / "elsewhere") == from_folder

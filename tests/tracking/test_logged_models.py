"""The model of a job in MLflow: one for all jobs that load the same, linked to their metrics and
data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.tracking import logged_models
from runner.tracking.stores import Store
from runner_base.result import Record, Result, Status

SERVER = Store("http://x", "runner", Path("outputs"))
Run = Callable[..., Any]


def client_of(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder / 'outputs' / 'mlflow.db'}")


@pytest.mark.thorough
@pytest.mark.slow
def test_jobs_with_one_model_share_it_and_another_quantization_is_another(
    runner: Run, tmp_path: Path
) -> None:
    small = ("task.limit=2", "generation.max_new_tokens=20", "print=json")
    done = [
        runner(*small),
        runner(*small, "task.split=hard"),
        runner(*small, "generation=sampling"),
        runner(*small, "quantization=int8"),
        runner(*small, "lora=embedded"),
    ]
    assert [it.code for it in done] == [0] * 5, [it.err for it in done]
    client = client_of(tmp_path)
    runs = [client.get_run(it.json()["mlflow_run_id"]) for it in done]
    used = [[one.model_id for one in run.inputs.model_inputs] for run in runs]
    assert [len(ids) for ids in used] == [1] * 5
    assert used[0] == used[1] == used[2]
    assert len({ids[0] for ids in used}) == 3
    models = client.search_logged_models([runs[0].info.experiment_id])
    assert sorted(model.name for model in models) == ["embedded", "embedded int8", "embedded lora-embedded"]
    (int8,) = (model for model in models if model.name == "embedded int8")
    assert int8.params["quantization.name"] == "int8"
    assert int8.status.value == "READY"
    plain = client.get_logged_model(used[0][0])
    linked = {(metric.run_id, metric.dataset_name) for metric in plain.metrics if metric.key == "accuracy"}
    names = [run.inputs.dataset_inputs[0].dataset.name for run in runs]
    assert names[:3] == ["embedded test", "embedded hard", "embedded test"]
    assert linked == {(run.info.run_id, name) for run, name in zip(runs[:3], names, strict=False)}
    keys = {metric.key for metric in plain.metrics}
    assert {"accuracy", "decode_tok_per_s", "peak_rss_mib"} <= keys
    assert "prompt_tokens" not in keys, "no quality of the model"
    assert not list(tmp_path.glob("outputs/mlartifacts/**/*.safetensors")), "no weights are copied"
    stub = runner("model=stub", "task=generate", "task.prompt=x", "print=json")
    assert stub.code == 0


def test_a_store_that_keeps_no_models_is_no_obstacle(caplog: pytest.LogCaptureFixture) -> None:
    from mlflow.exceptions import MlflowException

    class Older:
        def search_logged_models(self, *_: Any, **__: Any) -> list[Any]:
            raise MlflowException(
                "API request to endpoint /api/2.0/mlflow/logged-models/search failed with error code 404"
            )

    record = Record("x", Status.FINISHED, "", Result({}), model={"name": "m", "digest": "d", "params": {}})
    with caplog.at_level(logging.WARNING):
        assert logged_models.log_model(Older(), SERVER, "1", "2", record) is None
    assert (
        "runs are logged without models, because this MLflow store does not support models: API request"
        in caplog.text
    )
    assert (
        logged_models.log_model(Older(), SERVER, "1", "2", Record("x", Status.FINISHED, "", Result({})))
        is None
    )

"""A real MLflow store on sqlite, read back through MLflow's own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from runner.config.measures import SweepConfig
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig, TrackingConfig, iterate_job_id_keys
from runner.records import flat_config, run_names
from runner.records.jobs import Job
from runner.run import run
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tracking import connection, job_runs, stores
from runner_base.errors import ConfigError, TrackingError
from runner_base.result import Record, Result, Status
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.settings.model import LocalConfig

Make = Callable[..., RunnerConfig]
# mlflow 3.17 uses an old name of sqlalchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[Path], None]) -> Path:
    """One output folder for the module."""
    folder = tmp_path_factory.mktemp("outputs")
    new_database(folder / "mlflow.db")
    return folder


@pytest.fixture
def logged(make_config: Make, shared: Path) -> Callable[..., RunnerConfig]:
    return lambda **groups: make_config(output_dir=str(shared), tracking=TrackingConfig(), **groups)


def start(config: RunnerConfig, job: Job) -> job_runs.JobRun:
    params = dict(flat_config.flatten_config(config))
    store = stores.create_store_from_config(config)
    assert store
    return job_runs.start_job_run(
        store, job, Record(job.job_id, Status.FAILED, "", Result({}), params=params)
    )


def mlflow_run(record: Record) -> Any:
    from mlflow import MlflowClient

    assert record.mlflow_run_id is not None
    return MlflowClient(record.mlflow_uri).get_run(record.mlflow_run_id)


def test_a_mix_is_recorded_as_it_is_typed(make_config: Make) -> None:
    mix = Nf4Config(
        skip=["lm_head", "layers.0"], overrides={"down_proj": {"name": "nf4", "double_quant": False}}
    )
    config = make_config(model=LocalConfig(name="models/tiny"), quantization=mix)
    params = dict(flat_config.flatten_config(config))
    assert params["quantization.skip"] == "[lm_head, layers.0]"
    assert params["quantization.overrides"] == "{down_proj: {name: nf4, double_quant: false}}"
    assert (
        run_names.create_run_name(config)
        == "gsm8k models/tiny nf4 (lm_head, layers.0: none; down_proj: nf4) test max_new_tokens=24 limit=4"
    )
    plain = dict(flat_config.flatten_config(make_config(quantization=Nf4Config())))
    assert (plain["quantization.skip"], plain["quantization.overrides"]) == ("[]", "{}")


@pytest.mark.thorough
def test_a_job_is_one_run_with_everything_in_it(logged: Make, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    config = logged(task=Gsm8kConfig(limit=3), quantization=Nf4Config(), seed=7)
    record = run(config, "seed: 7\n")
    logged_run = mlflow_run(record)
    assert logged_run.info.status == "FINISHED"
    params = logged_run.data.params
    assert set(params) == {key for key, _ in flat_config.flatten_config(config)}
    assert {key for key, _ in iterate_job_id_keys(config)} <= set(params)
    assert params["quantization.name"] == "nf4"
    assert params["quantization.double_quant"] == "true"
    assert params["quantization.compute_dtype"] == "bfloat16"
    assert params["task.system"] == "null"
    assert params["seed"] == "7"
    assert logged_run.data.metrics == pytest.approx(record.result.metrics)
    tags = logged_run.data.tags
    assert (tags["job_id"], tags["task"], tags["task_version"]) == (record.job_id, "gsm8k", "4")
    assert tags["output_dir"] == record.output_dir
    assert tags["mlflow.runName"] == "gsm8k stub nf4 test max_new_tokens=24 limit=3 seed=7"
    assert record.mlflow_run_id
    client = MlflowClient(record.mlflow_uri)
    files = {item.path for item in client.list_artifacts(record.mlflow_run_id)}
    assert files == {"config.yaml", "result.json", "samples.jsonl", "measured.json", "log.txt"}
    local = client.download_artifacts(record.mlflow_run_id, "samples.jsonl", str(tmp_path))
    assert len([json.loads(line) for line in Path(local).read_text().splitlines()]) == 3
    assert (
        Path(client.download_artifacts(record.mlflow_run_id, "config.yaml", str(tmp_path))).read_text()
        == "seed: 7\n"
    )


def test_the_same_job_twice_is_one_run(logged: Make) -> None:
    config = logged(seed=8)
    first, second = run(config), run(config)
    assert not first.from_ledger
    assert second.from_ledger
    assert first.mlflow_run_id == second.mlflow_run_id
    assert first.result == second.result


def test_a_result_recorded_without_mlflow_is_logged_later(
    make_config: Make, logged: Make, shared: Path
) -> None:
    plain = run(make_config(output_dir=str(shared), seed=9))
    assert plain.mlflow_run_id is None
    later = run(logged(seed=9))
    assert later.from_ledger
    assert mlflow_run(later).data.metrics == pytest.approx(plain.result.metrics)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("boom"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_the_status_is_true_when_the_task_breaks(
    logged: Make, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    from mlflow import MlflowClient

    from runner.tasks.gsm8k import task as gsm8k

    def broken(*_: object) -> Result:
        raise error

    monkeypatch.setattr(gsm8k, "run", broken)
    config = logged(seed=100 if status == "FAILED" else 101)
    with pytest.raises(type(error)):
        run(config)
    (folder,) = Path(config.output_dir).glob(f"jobs/{_job_id(config)}")
    assert json.loads((folder / "result.json").read_text())["status"] == status
    store = stores.create_store_from_config(config)
    assert store
    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name("runner")
    assert experiment
    runs = client.search_runs([experiment.experiment_id], f"tags.job_id = '{_job_id(config)}'")
    assert [it.info.status for it in runs] == [status]
    monkeypatch.undo()
    assert run(config).status is Status.FINISHED, "a failed job runs again"


def _job_id(config: RunnerConfig) -> str:
    from runner.run import read_inputs_and_identify_job

    _, job = read_inputs_and_identify_job(resolve_job(config))
    return job.job_id


def test_names_and_values_that_mlflow_rejects_are_changed(logged: Make, tmp_path: Path) -> None:
    job = Job("x", tmp_path)
    config = logged(task=Gsm8kConfig(limit=2, instruction="long " * 3000))
    job_run = start(config, job)
    result = Result(
        {"decode_tok_per_s/batch_1": 1.0, "odd @key=[1]": 2.0, "nan": float("nan")},
        notes=["n"],
        facts={"device": "cpu"},
    )
    record = Record("x", Status.FINISHED, str(tmp_path), result)
    job_run.log_result(record)
    record.mlflow_run_id, record.mlflow_uri = job_run.run_id, job_run.store.redacted_uri
    logged_run = mlflow_run(record)
    assert logged_run.data.metrics == {"decode_tok_per_s/batch_1": 1.0, "odd _key__1_": 2.0}
    assert len(logged_run.data.params["task.instruction"]) == 6000
    assert logged_run.data.tags["fact.device"] == "cpu"
    assert logged_run.data.tags["notes"] == "n"


@pytest.mark.thorough
def test_more_params_and_metrics_than_one_call_takes(logged: Make, tmp_path: Path) -> None:
    job = Job("many", tmp_path)
    job_run = start(logged(), job)
    metrics = {f"m/{number}": float(number) for number in range(2500)}
    record = Record("many", Status.FINISHED, str(tmp_path), Result(metrics))
    job_run.log_result(record)
    record.mlflow_run_id, record.mlflow_uri = job_run.run_id, job_run.store.redacted_uri
    assert mlflow_run(record).data.metrics == metrics


def test_none_writes_nothing(make_config: Make, tmp_path: Path) -> None:
    record = run(make_config())
    assert record.mlflow_run_id is None
    assert not list(tmp_path.rglob("mlflow.db"))


def test_a_deleted_experiment_is_named(logged: Make) -> None:
    from mlflow import MlflowClient

    config = logged(seed=200)
    config.tracking.experiment = "gone"
    run(config)
    store = stores.create_store_from_config(config)
    assert store
    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name("gone")
    assert experiment
    client.delete_experiment(experiment.experiment_id)
    config.rerun = True
    connection._opened.clear()  # as in a new process
    with raises(ConfigError, "not_found", "tracking.experiment"):
        run(config)


def test_a_server_that_is_unreachable(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    config = make_config(tracking=TrackingConfig(uri="http://127.0.0.1:9"))
    with raises(TrackingError, "failed"):
        run(config)


@pytest.mark.thorough
@pytest.mark.slow
def test_curves_are_series_with_steps_and_pictures_are_artifacts(logged: Make) -> None:
    from mlflow import MlflowClient

    task = SweepConfig(batch_sizes=[1, 2], prompt_tokens=[4, 8], new_tokens=2, repeats=2)
    record = run(logged(task=task))
    client = MlflowClient(record.mlflow_uri)
    assert record.mlflow_run_id is not None
    for key, points in record.result.series.items():
        logged_points = client.get_metric_history(record.mlflow_run_id, key)
        assert sorted((point.step, point.value) for point in logged_points) == points
    assert len(record.result.series["decode_tok_per_s/over_batch_size_prompt_8"]) == 2
    files = {item.path for item in client.list_artifacts(record.mlflow_run_id)}
    assert files >= {"points.json", "throughput_latency.png", "speed_batch.png", "ttft_prompt.png"}

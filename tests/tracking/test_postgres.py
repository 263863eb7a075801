"""A team's store: an MLflow server with a real PostgreSQL, to which a grid logs and which is read
elsewhere; also without a server."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import warm_process
from grids import wait_for
from raising import raises
from servers import free_port, mlflow_server, postgres_server

from runner.config.root import RunnerConfig, TrackingConfig
from runner.recorded_runs.sample_reader import read_verdicts
from runner.run import run
from runner.tracking import connection, job_runs, stores
from runner.tracking.job_progress import PREFIX
from runner.tracking.stored_runs import open_mlflow_client_for_reading
from runner_base.errors import Code, ConfigError, reject_password_in_uri

# mlflow 3.17 uses an old name of sqlalchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")
Run = Callable[..., Any]
GRID = (
    "-m",
    "quantization=none,int8,nf4,fp4",
    "task.split=test,hard5",
    "task.limit=24",
    "workers=2",
    "print=json",
)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URI of a PostgreSQL for this module."""
    with postgres_server() as uri:
        yield uri


def query_postgres(uri: str, query: str) -> list[tuple[Any, ...]]:
    """Query PostgreSQL itself, without MLflow."""
    import psycopg

    with psycopg.connect(uri, autocommit=True) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else []


def counted(theirs: Path, ours: Path) -> tuple[int, int]:
    """Count wins and losses between two samples files, from the answers themselves."""
    base, this = read_verdicts(theirs), read_verdicts(ours)
    assert base is not None
    assert this is not None
    pairs = [(answer.solved, base[question].solved) for question, answer in this.items()]
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


@pytest.mark.thorough
def test_a_grid_on_a_server_with_postgres_loses_nothing_and_is_read_elsewhere(
    runner: Run, tmp_path: Path, postgres: str
) -> None:
    server, elsewhere = tmp_path / "server", tmp_path / "elsewhere"
    elsewhere.mkdir()
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(server, port, postgres):
        done = runner(*GRID, f"tracking.uri={uri}")
        assert done.code == 0, done.err
        results = {line["job_id"]: line for line in map(json.loads, done.out.splitlines())}
        assert [line["status"] for line in results.values()] == ["FINISHED"] * 8
        logs = [log for log in tmp_path.glob("outputs/workers/*/worker_*.log") if log.read_text()]
        assert len(logs) == 2, "both workers did something"

        runs = dict(query_postgres(postgres, "select run_uuid, status from runs"))
        assert list(runs.values()) == ["FINISHED"] * 9, "eight jobs and the grid"
        jobs = dict(query_postgres(postgres, "select value, run_uuid from tags where key = 'job_id'"))
        assert jobs == {job_id: line["mlflow_run_id"] for job_id, line in results.items()}
        (parent,) = runs.keys() - jobs.values()
        parents = query_postgres(
            postgres, "select run_uuid, value from tags where key = 'mlflow.parentRunId'"
        )
        assert dict(parents) == dict.fromkeys(jobs.values(), parent)
        for job_id, run_id in jobs.items():
            folder = tmp_path / "outputs" / "jobs" / job_id
            record = json.loads((folder / "result.json").read_text())
            assert record["mlflow_uri"] == uri
            logged = dict(
                query_postgres(postgres, f"select key, value from latest_metrics where run_uuid = '{run_id}'")
            )
            metrics = record["result"]["metrics"]
            assert logged == pytest.approx(
                {key: value for key, value in metrics.items() if math.isfinite(value)}
            )
            assert (
                dict(query_postgres(postgres, f"select key, value from params where run_uuid = '{run_id}'"))
                == record["params"]
            )
            (artifacts,) = server.glob(f"a/*/{run_id}/artifacts")
            for name in ("samples.jsonl", "config.yaml"):
                assert (artifacts / name).read_bytes() == (folder / name).read_bytes()
        assert list(server.glob(f"a/*/{parent}/artifacts/plan.json"))

        (tmp_path / "outputs").rename(tmp_path / "gone")  # as on another machine
        compared = runner(
            *("--tracking-uri", uri, "--baseline", "quantization=none", "--format", "json"),
            cwd=elsewhere,
            module="runner_compare",
        )
    assert compared.code == 0, compared.err
    (table,) = json.loads(compared.out)["tables"]
    rows = {row["job_id"]: row for row in table["rows"]}
    assert rows.keys() == results.keys()
    assert [row["comparison"] is None for row in rows.values()] == [
        row["is_baseline"] for row in rows.values()
    ]
    compared_rows = [row for row in rows.values() if row["comparison"]]
    assert len(compared_rows) == 6
    for row in compared_rows:
        it = row["comparison"]
        files = (
            tmp_path / "gone" / "jobs" / job / "samples.jsonl"
            for job in (it["baseline_job_id"], row["job_id"])
        )
        assert (it["wins"], it["losses"]) == counted(*files)
    assert not list(elsewhere.iterdir()), "reading leaves nothing behind"


@pytest.mark.thorough
def test_processes_that_log_the_same_new_data_set_at_once_all_succeed(
    make_config: Callable[..., RunnerConfig], postgres: str
) -> None:
    query_postgres(postgres, "create database at_once")
    config = make_config(tracking=TrackingConfig(uri=postgres.replace("/postgres?", "/at_once?")))
    store = stores.create_store_from_config(config)
    assert store is not None
    with connection.connect_to_store(store) as (client, experiment_id):
        pass
    together, rounds = 4, 10
    barrier = threading.Barrier(together)

    def log(_: int) -> list[str]:
        run_id = client.create_run(experiment_id).info.run_id
        for number in range(rounds):
            barrier.wait(60)
            data = {"name": f"set {number}", "digest": "0", "source_type": "file", "source": "{}"}
            job_runs._log_run_inputs(client, run_id, data, None)
        return [it.dataset.name for it in client.get_run(run_id).inputs.dataset_inputs]

    with ThreadPoolExecutor(together) as threads:
        logged = list(threads.map(log, range(together)))
    assert [sorted(names) for names in logged] == [
        sorted(f"set {number}" for number in range(rounds))
    ] * together


@pytest.mark.thorough
@pytest.mark.slow
def test_postgres_without_a_server_keeps_files_in_the_output_folder(
    runner: Run, tmp_path: Path, postgres: str
) -> None:
    query_postgres(postgres, "create database direct")
    uri = postgres.replace("/postgres?", "/direct?")
    done = runner(
        "-m", "model=stub", "task.limit=5", "task.cluster=null", "seed=1,2", "workers=2", f"tracking.uri='{uri}'",
        "print=json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert len(query_postgres(uri, "select run_uuid from runs where status = 'FINISHED'")) == 3
    assert len(list(tmp_path.glob("outputs/mlartifacts/*/artifacts/samples.jsonl"))) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}, "no mlruns in the working directory"
    compared = runner(
        "--tracking-uri", uri, "--baseline", "seed=1", "--format", "json", module="runner_compare"
    )
    assert compared.code == 0, compared.err
    rows = json.loads(compared.out)["tables"][0]["rows"]
    assert [row["comparison"]["ties"] for row in rows if not row["is_baseline"]] == [5]


def select_runs(uri: str, name: str) -> list[tuple[str, str]]:
    """Return the ids and the status of all runs whose name contains `name`."""
    query = f"select run_uuid, status from runs where name like '%{name}%' order by start_time"
    return [(run_id, status) for run_id, status in query_postgres(uri, query)]


def select_steps(uri: str, run_id: str) -> list[int]:
    query = f"select step from metrics where run_uuid = '{run_id}' and key = '{PREFIX}accuracy'"
    return [step for (step,) in query_postgres(uri, f"{query} order by timestamp")]


@pytest.mark.thorough
@pytest.mark.slow
def test_a_killed_job_in_postgres_goes_on_with_its_run_and_its_curve(
    runner: Run, tmp_path: Path, postgres: str
) -> None:
    query_postgres(postgres, "create database killed")
    uri = postgres.replace("/postgres?", "/killed?")
    job = ("model=stub", "model.delay_s=0.25", "task.limit=70", "task.cluster=null", "print=none")
    words = [*job, f"tracking.uri='{uri}'", f"output_dir={tmp_path}/outputs"]
    process: subprocess.Popen[str] = warm_process.popen(
        [sys.executable, "-m", "runner", *words], cwd=tmp_path, stderr=subprocess.DEVNULL
    )

    def has_points() -> bool:
        assert process.poll() is None
        tables = "select 1 from information_schema.tables where table_name = 'metrics'"
        return bool(query_postgres(uri, tables)) and bool(
            query_postgres(uri, "select 1 from metrics limit 1")
        )

    wait_for(has_points, 120)
    process.kill()
    process.wait()
    ((run_id, status),) = select_runs(uri, "stub")
    before = select_steps(uri, run_id)
    assert (status, bool(before)) == ("RUNNING", True)
    done = runner(*words)
    assert done.code == 0, done.err
    assert select_runs(uri, "stub") == [(run_id, "FINISHED")]
    steps = select_steps(uri, run_id)
    assert steps == sorted(set(steps)), "no step comes twice"
    assert steps[: len(before)] == before
    assert steps[-1] == 70
    assert len(steps) > len(before)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_gate_logs_to_postgres_and_sync_copies_a_sqlite_store_there(
    runner: Run, tmp_path: Path, postgres: str
) -> None:
    for name in ("gated", "synced"):
        query_postgres(postgres, f"create database {name}")
    gated, synced = (postgres.replace("/postgres?", f"/{name}?") for name in ("gated", "synced"))
    grid = ("-m", "quantization=none,int8,nf4,fp4", "task.limit=40", "task.cluster=null", "workers=2")
    done = runner(*grid, f"tracking.uri='{gated}'")
    assert done.code == 0, done.err
    assert f"--tracking-uri '{gated}'" in done.out, "the next command can be copied"
    gate = runner(
        *("gate", "quantization=none", "--margin", "2", "--log", "--json", "--tracking-uri", gated),
        module="runner_compare",
    )
    verdicts = {it["name"]: it["verdict"] for it in json.loads(gate.out)["candidates"]}
    assert verdicts.keys() == {"int8", "nf4", "fp4"}, gate.err
    of_jobs = "select run_uuid from tags where key = 'job_id'"
    logged = query_postgres(
        gated, f"select value from tags where key = 'verdict' and run_uuid in ({of_jobs})"
    )
    assert sorted(value for (value,) in logged) == sorted(verdicts.values())
    points = query_postgres(gated, "select value from latest_metrics where key = 'delta_points'")
    assert len(points) == 3

    (tmp_path / "outputs").rename(tmp_path / "gated")
    assert runner(*grid, "print=none").code == 0  # to sqlite
    for _ in range(2):
        copied = runner("--tracking-uri", synced, module="runner.tracking.sync")
        assert copied.code == 0, copied.err
    assert [status for _, status in select_runs(synced, "")] == ["FINISHED"] * 5, "once each, with the grid"
    of_runs = "select count(*) from latest_metrics where key = 'accuracy'"
    assert query_postgres(synced, of_runs) == [(4,)]


@pytest.mark.thorough
def test_a_password_is_rejected_before_it_is_written_anywhere(runner: Run, tmp_path: Path) -> None:
    done = runner("model=stub", "task.limit=2", "tracking.uri='postgresql://ann:s3cret@127.0.0.1/runs'")
    assert done.code == 2
    assert "tracking.uri=postgresql://***@127.0.0.1/runs: the URI contains a password" in done.err
    assert "PGPASSWORD" in done.err
    assert "s3cret" not in done.out + done.err
    read = runner(
        "--tracking-uri", "http://ann:s3cret@127.0.0.1:9", "--save", "page", module="runner_compare"
    )
    assert (read.code, read.err.count("s3cret")) == (2, 0)
    assert "--tracking-uri http://***@127.0.0.1:9: the URI contains a password" in read.err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if b"s3cret" in path.read_bytes()]


def test_a_refused_password_leaves_the_place_readable_and_no_part_of_itself() -> None:
    for uri in ("postgresql://ann:s3cret@db:5433/runs", "postgresql://ann:s@3/cret@db:5433/runs"):
        with raises(ConfigError, "refused", "tracking.uri") as refused:
            reject_password_in_uri("tracking.uri", uri)
        assert refused.value.value == "postgresql://***@db:5433/runs"


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("postgresql://host/runs?user=ann&password=s3cret", "refused"),
        ("http://[nowhere", "bad_value"),
        ("postgresql://ann:s3cret[@host/runs", "bad_value"),
        ("postgresql://ann:s3cret\u2100@host/runs", "bad_value"),  # urllib's own message would quote it
    ],
)
def test_other_uris_that_are_rejected(uri: str, code: Code) -> None:
    with raises(ConfigError, code, "--tracking-uri") as refused:
        reject_password_in_uri("--tracking-uri", uri)
    assert "s3cret" not in str(refused.value)


def test_a_database_without_its_driver_is_named(
    make_config: Callable[..., RunnerConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # an import of it fails
    config = make_config(tracking=TrackingConfig(uri="postgresql://127.0.0.1/runs"))
    with raises(ConfigError, "needs_package", "tracking.uri"):
        run(config)
    with raises(ConfigError, "needs_package", "--tracking-uri"):
        open_mlflow_client_for_reading(stores.Store("postgresql://127.0.0.1/runs", "runner", Path("outputs")))


def test_an_experiment_that_another_machine_creates_meanwhile_is_used(tmp_path: Path) -> None:
    """Two machines share a server but no lock: both look for the experiment, and the slower one
    finds it created."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    theirs = client.create_experiment("runner", artifact_location=str(tmp_path))
    assert connection._create_experiment(client, "runner", str(tmp_path)) == theirs

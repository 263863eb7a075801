"""What is read from MLflow's tables directly is what MLflow's client returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.compare.run_list import load_runs
from runner.core.metrics import LOG_LIKELIHOOD
from runner.store import sqlite_runs, stored_runs
from runner.store.mlflow_store import Store, open_client, set_mlflow_variables

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]
METRICS = {"accuracy": 0.1 + 0.2, "tiny": 5e-324, "nan": math.nan, "inf": math.inf, LOG_LIKELIHOOD: -1 / 3}


@pytest.fixture
def store(tmp_path: Path, new_database: Callable[[Path], None]) -> Store:
    """A store with jobs of two grids, one job twice, jobs in all states, a deleted run and odd texts."""
    new_database(tmp_path / "mlflow.db")
    set_mlflow_variables()
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}", "odd", tmp_path)
    client: Any = open_client(store.uri, "uri")
    experiment = client.create_experiment("odd")
    other = client.create_experiment("other")

    def run(job: str, status: str, number: int, where: str = experiment, **tags: str) -> str:
        named = {
            "job_id": job,
            "task": "gsm8k",
            "begun": "x",
            "output_dir": "/out",
            "fact.why": "a \"b\"\n'c' é",
            **tags,
        }
        made: str = client.create_run(where, start_time=1000 + number // 2, tags=named).info.run_id
        for key, value in {"model.name": "stub", "odd.text": '{"x": [1, "é"]}\\', "seed": str(number)}.items():
            client.log_param(made, key, value)
        for key, number_of_it in METRICS.items():
            client.log_metric(made, key, number_of_it, step=0)
        client.log_metric(made, "errors", float(status == "FAILED"))
        client.log_metric(made, "accuracy", number / 7, step=1)  # only the last value counts
        if status != "RUNNING":
            client.set_terminated(made, status)
        return made

    grids = [
        client.create_run(experiment, tags={"grid": name, "output_dir": "/out"}).info.run_id for name in ("f1", "f2")
    ]
    for number, status in enumerate(("FINISHED", "FAILED", "RUNNING", "KILLED", "FINISHED")):
        parent = {"mlflow.parentRunId": grids[number % 2]} if number else {}
        run(f"gsm8k-{number}", status, number, **parent)
    run("gsm8k-0", "FINISHED", 9)
    client.delete_run(run("gsm8k-8", "FINISHED", 8))
    run("gsm8k-7", "FINISHED", 7, other)
    return store


def plain(runs: Any) -> list[tuple[Any, ...]]:
    """Return runs so that NaN equals NaN."""
    return [(it.run_id, it.artifacts, it.params, it.tags, repr(sorted(it.metrics.items()))) for it in runs]


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_whole_runs(store: Store, status: str) -> None:
    client: Any = open_client(store.uri, "uri")
    experiment = client.get_experiment_by_name("odd").experiment_id
    newest = ["attributes.start_time DESC"]
    expected = [
        sqlite_runs.StoredRun(it.info.run_id, it.info.artifact_uri, it.data.params, it.data.tags, it.data.metrics)
        for it in client.search_runs([experiment], f"attributes.status = '{status}'", order_by=newest)
    ]
    found = [*sqlite_runs.whole_runs(store.output_dir / "mlflow.db", experiment, status)]
    assert plain(found) == plain(expected)
    assert len(found) == {"FINISHED": 3, "FAILED": 1}[status], "no deleted run, and none of another experiment"
    assert "nan" in repr(found[0].metrics)


def test_the_ledgers_tags(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for jobs in (None, ["gsm8k-0"], ["gsm8k-2"]):
        direct = stored_runs._read(store, jobs)
        with monkeypatch.context() as without_tables:
            without_tables.setattr(stored_runs, "sqlite_path", lambda _: None)
            by_client = stored_runs._read(store, jobs)
        assert {run: it for run, it in direct.items() if it[0] not in ("FAILED", "KILLED")} == {
            run: (status, {key: tags[key] for key in kept(status) if key in tags})
            for run, (status, tags) in by_client.items()
        }, "the tables also give runs that ended without a result, which no caller asks for"


def kept(status: str) -> tuple[str, ...]:
    """Return the tags that the ledger reads of a run with this status."""
    return ("job_id", "grid", "mlflow.parentRunId", *(("begun", "output_dir") if status == "RUNNING" else ()))


def test_a_logged_model(store: Store) -> None:
    client: Any = open_client(store.uri, "uri")
    experiment, file = client.get_experiment_by_name("odd").experiment_id, store.output_dir / "mlflow.db"
    made = [client.create_logged_model(experiment, name, tags={"runner.digest": name}).model_id for name in ("a", "b")]
    client.delete_logged_model(client.create_logged_model(experiment, "c", tags={"runner.digest": "c"}).model_id)
    for number, digest in enumerate(("a", "b", "c", "d")):
        found = client.search_logged_models([experiment], f"tags.`runner.digest` = '{digest}'")
        assert [it.model_id for it in found] == made[number : number + 1]
        assert sqlite_runs.model_with_tag(file, experiment, "runner.digest", digest) == next(iter(made[number:]), None)
    assert sqlite_runs.model_with_tag(file, "77", "runner.digest", "a") is None


def test_a_comparison_reads_the_same_either_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all runs, with a grid's, by a query for each job, and by one for all."""
    client: Any = open_client(store.uri, "uri")
    grid = next(run for run, _ in stored_runs.read_runs(store).grids["f1"])
    wanted: list[tuple[Any, ...]] = [(), (["gsm8k-0", "gsm8k-4"],), (["gsm8k-1"], grid)]
    direct = [repr(load_runs(client, store, *one)) for one in wanted]
    assert [text.count("job_id=") for text in direct] == [4, 3, 2]
    monkeypatch.setattr(sqlite_runs, "HAS_JSON", False)
    assert [repr(load_runs(client, store, *one)) for one in wanted] == direct
    monkeypatch.setattr(stored_runs, "RUNS_A_QUERY", 0)
    assert [repr(load_runs(client, store, *one)) for one in wanted] == direct


@pytest.mark.parametrize("runs_a_query", [0, 1, 100])
def test_the_runs_of_some_jobs(store: Store, monkeypatch: pytest.MonkeyPatch, runs_a_query: int) -> None:
    """Whatever way they are read, and with a parent that was deleted: the same, and the newest run first."""
    client: Any = open_client(store.uri, "uri")
    experiment = client.get_experiment_by_name("odd").experiment_id
    lost = client.create_run(experiment, tags={"grid": "f3"}).info.run_id
    for job in ("gsm8k-5", "gsm8k-6"):
        made = client.create_run(experiment, tags={"job_id": job, "mlflow.parentRunId": lost}).info.run_id
        client.set_terminated(made, "FINISHED")
    client.delete_run(lost)
    whole = stored_runs.read_runs(store)
    monkeypatch.setattr(stored_runs, "sqlite_path", lambda _: None)
    monkeypatch.setattr(stored_runs, "RUNS_A_QUERY", runs_a_query)
    for jobs in ([], ["gsm8k-0", "gsm8k-4"], ["gsm8k-4", "gsm8k-5", "gsm8k-7"], [f"gsm8k-{it}" for it in range(9)]):
        for grid in ("f1", "f2", "none"):
            some = stored_runs.read_runs(store, jobs, grid)
            assert some.grids.get(grid) == whole.grids.get(grid)
            assert some.running.keys() == whole.running.keys()
            for job in jobs:
                assert [*some.jobs.get(job, {})][:1] == [*whole.jobs.get(job, {})][:1]
                assert some.orphan_of(job) == whole.orphan_of(job)
                for parent, _ in whole.grids.get(grid, []):
                    assert some.run_of(job, parent) == whole.run_of(job, parent)
    assert whole.orphan_of("gsm8k-5"), "the control: its grid is gone"
    assert not whole.orphan_of("gsm8k-4")


def test_what_others_have_recorded_is_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = open_client(store.uri, "uri")
    experiment = client.get_experiment_by_name("odd").experiment_id
    read: list[int] = []
    search_runs = type(client).search_runs

    def counting(*arguments: Any) -> Any:
        page = search_runs(*arguments)
        read.append(len(page))
        return page

    def runs_read() -> int:
        read.clear()
        stored_runs.read_runs(store, ["gsm8k-0", "gsm8k-4"], "f1")
        return sum(read)

    monkeypatch.setattr(stored_runs, "sqlite_path", lambda _: None)
    monkeypatch.setattr(type(client), "search_runs", counting)
    before = runs_read()
    for number in range(40):
        made = client.create_run(experiment, tags={"job_id": f"gsm8k-of-others-{number}"}).info.run_id
        client.set_terminated(made, "FINISHED")
    assert before <= runs_read() <= before + 2 * stored_runs.RUNS_A_QUERY
    stored_runs.read_runs(store)
    assert sum(read) > 40, "the control"

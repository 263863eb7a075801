"""What is read of a store's runs and models, by few queries of MLflow's client."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.recorded_runs.run_list import load_runs_from_mlflow_store
from runner.tracking import logged_models, stored_runs
from runner.tracking.connection import open_client, set_mlflow_environment
from runner.tracking.stores import Store

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]


@pytest.fixture
def store(tmp_path: Path, new_database: Callable[[Path], None]) -> Store:
    """A store with jobs of two grids, one job twice, jobs in all states and a deleted run."""
    new_database(tmp_path / "mlflow.db")
    set_mlflow_environment()
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}", "odd", tmp_path)
    client: Any = open_client(store.uri, "uri")
    experiment = client.create_experiment("odd")
    other = client.create_experiment("other")

    def run(job: str, status: str, number: int, where: str = experiment, **tags: str) -> str:
        made: str = client.create_run(
            where, start_time=1000 + number // 2, tags={"job_id": job, **tags}
        ).info.run_id
        client.log_metric(made, "errors", float(status == "FAILED"))
        for step in range(2):
            # only the last value counts
            client.log_metric(made, "accuracy", number * step, step=step)
        if status != "RUNNING":
            client.set_terminated(made, status)
        return made

    grids = [client.create_run(experiment, tags={"grid": name}).info.run_id for name in ("f1", "f2")]
    for number, status in enumerate(("FINISHED", "FAILED", "RUNNING", "KILLED", "FINISHED")):
        parent = {"mlflow.parentRunId": grids[number % 2]} if number else {}
        run(f"gsm8k-{number}", status, number, **parent)
    run("gsm8k-0", "FINISHED", 9)
    client.delete_run(run("gsm8k-8", "FINISHED", 8))
    run("gsm8k-7", "FINISHED", 7, other)
    return store


@pytest.mark.thorough
def test_a_logged_model(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by its digest, and not searched for again for a while; one that was deleted, or is
    elsewhere, is not."""
    client: Any = open_client(store.uri, "uri")
    experiment = client.get_experiment_by_name("odd").experiment_id
    made = [
        client.create_logged_model(experiment, name, tags={"runner.digest": name}).model_id
        for name in ("a", "b")
    ]
    client.delete_logged_model(
        client.create_logged_model(experiment, "c", tags={"runner.digest": "c"}).model_id
    )

    def found() -> list[str | None]:
        return [
            logged_models.find_logged_model_id(client, store, experiment, digest)
            for digest in ("a", "b", "c", "d")
        ]

    assert found() == [*made, None, None]
    assert logged_models.find_logged_model_id(client, store, "77", "a") is None
    with monkeypatch.context() as without_search:
        without_search.delattr(type(client), "search_logged_models")
        assert [
            logged_models.find_logged_model_id(client, store, experiment, digest) for digest in ("a", "b")
        ] == made
    client.delete_logged_model(made[0])
    monkeypatch.setattr(logged_models, "CHECKED_AGAIN_S", 0)
    assert found() == [None, made[1], None, None]


def test_a_comparison_reads_the_same_in_every_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs, and those of some jobs and of a grid: by a query for each job, and by one for
    all."""
    client: Any = open_client(store.uri, "uri")
    grid = next(run for run, _ in stored_runs.read_stored_runs(store).grids["f1"])
    everything = load_runs_from_mlflow_store(client, store)
    assert [run.job_id for run in everything] == ["gsm8k-0", "gsm8k-4", "gsm8k-0", "gsm8k-1"]
    assert [run.errors for run in everything] == [0, 0, 0, 1]
    assert everything[0].earlier == [everything[2]]
    assert everything[0].metrics["accuracy"] == 9
    for runs_a_query in (stored_runs.RUNS_A_QUERY, 0):
        monkeypatch.setattr(stored_runs, "RUNS_A_QUERY", runs_a_query)
        some = load_runs_from_mlflow_store(client, store, ["gsm8k-0", "gsm8k-4"])
        assert repr(some) == repr(everything[:3])
        assert [run.job_id for run in load_runs_from_mlflow_store(client, store, ["gsm8k-1"], grid)] == [
            "gsm8k-4",
            "gsm8k-1",
        ]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("runs_a_query", [0, 1, 100])
def test_the_runs_of_some_jobs(store: Store, monkeypatch: pytest.MonkeyPatch, runs_a_query: int) -> None:
    """Whatever way they are read, and with a parent that was deleted: the same, and the newest run
    first."""
    client: Any = open_client(store.uri, "uri")
    experiment = client.get_experiment_by_name("odd").experiment_id
    lost = client.create_run(experiment, tags={"grid": "f3"}).info.run_id
    for job in ("gsm8k-5", "gsm8k-6"):
        made = client.create_run(experiment, tags={"job_id": job, "mlflow.parentRunId": lost}).info.run_id
        client.set_terminated(made, "FINISHED")
    client.delete_run(lost)
    whole = stored_runs.read_stored_runs(store)
    monkeypatch.setattr(stored_runs, "RUNS_A_QUERY", runs_a_query)
    for jobs in (
        [],
        ["gsm8k-0", "gsm8k-4"],
        ["gsm8k-4", "gsm8k-5", "gsm8k-7"],
        [f"gsm8k-{it}" for it in range(9)],
    ):
        for grid in ("f1", "f2", "none"):
            some = stored_runs.read_stored_runs(store, jobs, grid)
            assert some.grids.get(grid) == whole.grids.get(grid)
            assert some.running.keys() == whole.running.keys()
            for job in jobs:
                assert [*some.jobs.get(job, {})][:1] == [*whole.jobs.get(job, {})][:1]
                assert some.find_run_without_existing_parent(job) == whole.find_run_without_existing_parent(
                    job
                )
                for parent, _ in whole.grids.get(grid, []):
                    assert some.find_run(job, parent) == whole.find_run(job, parent)
    assert whole.find_run_without_existing_parent("gsm8k-5"), "the control: its grid is gone"
    assert not whole.find_run_without_existing_parent("gsm8k-4")


@pytest.mark.thorough
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
        stored_runs.read_stored_runs(store, ["gsm8k-0", "gsm8k-4"], "f1")
        return sum(read)

    monkeypatch.setattr(type(client), "search_runs", counting)
    before = runs_read()
    for number in range(40):
        made = client.create_run(experiment, tags={"job_id": f"gsm8k-of-others-{number}"}).info.run_id
        client.set_terminated(made, "FINISHED")
    assert before <= runs_read() <= before + 2 * stored_runs.RUNS_A_QUERY
    stored_runs.read_stored_runs(store)
    assert sum(read) > 40, "the control"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("count", [0, 3, 4000, 4001, 70_000])
def test_conditions_that_leave_out_many_runs(store: Store, count: int) -> None:
    """MLflow's client takes each, and together they find every other run once."""
    client: Any = open_client(store.uri, "uri")
    experiment = client.get_experiment_by_name("odd").experiment_id
    known, *others = (run.info.run_id for run in client.search_runs([experiment]))
    left_out = [known, *(uuid.uuid4().hex for _ in range(count - 1))] if count else []
    conditions = [
        f"attributes.status != 'SCHEDULED'{it}"
        for it in stored_runs.build_conditions_excluding_runs(left_out)
    ]
    assert len(conditions) == (1 if count <= 4000 else 16 if count < 64_000 else 256)
    found = [
        run.info.run_id for it in conditions[:16] for run in stored_runs.search_runs(client, experiment, it)
    ]
    expected = [run for run in ([known] * (not count) + others) if len(conditions) < 256 or run[0] == "0"]
    assert sorted(found) == sorted(expected)

"""Creates or reopens MLflow runs, so that each job has exactly one run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from runner.tracking import pending_runs
from runner.tracking.stored_runs import JOB_ID
from runner_base import Status
from runner_base.renamed_keys import update_renamed_param_keys

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"  # MLflow reads it for each request


def create_run_once(client: Any, experiment_id: str, tags: Mapping[str, str]) -> str:
    """Create an MLflow run with a unique tag and return its id.

    If the request fails, no second run is created.

    A server may have created it and died before it answered. MLflow would retry at once and so
    create another: here the tag, which no other run has, is searched first.
    """
    from mlflow.exceptions import MlflowException

    try:
        with _disable_mlflow_retries():
            return str(client.create_run(experiment_id, tags=tags).info.run_id)
    except MlflowException:
        begun = client.search_runs(
            [experiment_id], f"tags.{pending_runs.TAG} = '{tags[pending_runs.TAG]}'", 1, 1
        )
        if begun:
            return str(begun[0].info.run_id)
        with _disable_mlflow_retries():
            return str(client.create_run(experiment_id, tags=tags).info.run_id)


@contextmanager
def _disable_mlflow_retries() -> Iterator[None]:
    """Disable MLflow's retries inside this context, so that each request is sent only once."""
    before = os.environ.get(RETRIES)
    os.environ[RETRIES] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[RETRIES]
        else:
            os.environ[RETRIES] = before


def reopen_interrupted_run(
    client: Any, experiment_id: str, tags: Mapping[str, str], params: Mapping[str, str]
) -> Any | None:
    """Reopen a job's newest interrupted MLflow run. Returns None if the params of that run differ from
    `params`.

    MLflow cannot change a run's params: where a key has another value now, even one that changes no
    answer, the job gets a new run. A run may lack params if its server died while it was created.
    """
    broken_off = (
        f"attributes.status = '{Status.KILLED.value}'",
        f"attributes.status = '{Status.FAILED.value}' and tags.{pending_runs.DIED} = 'true'",
    )
    found = [
        run
        for how in broken_off
        for run in client.search_runs(
            [experiment_id],
            f"tags.{JOB_ID} = '{tags[JOB_ID]}' and {how}",
            1,
            1,
            ["attributes.start_time DESC"],
        )
    ]
    for run in sorted(found, key=lambda run: int(run.info.start_time), reverse=True)[:1]:
        is_same = _identifying_params(run.data.params).items() <= _identifying_params(params).items()
        if not is_same or run.data.tags.get("output_dir") != tags["output_dir"]:
            continue
        for key, value in tags.items():
            if run.data.tags.get(key) != value:
                client.set_tag(run.info.run_id, key, value)
        if run.data.tags.get(pending_runs.DIED):
            client.set_tag(run.info.run_id, pending_runs.DIED, "false")
        client.update_run(run.info.run_id, status="RUNNING")
        return run
    return None


def _identifying_params(params: Mapping[str, str]) -> dict[str, str]:
    """Return the choices of all config groups as MLflow params, except the groups output and tracking."""
    return {
        key: value
        for key, value in update_renamed_param_keys(params).items()
        if "." in key and not key.startswith("tracking.")
    }

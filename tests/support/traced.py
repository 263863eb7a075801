"""The traces that a job has in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def traces_of(folder: Path, done: Any) -> list[Any]:
    """Return the traces of the run of a command, by the number of their sample."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'outputs' / 'mlflow.db'}")
    run = client.get_run(done.json()["mlflow_run_id"])
    found = client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id, max_results=100)
    return sorted(found, key=lambda trace: int(trace.data.spans[0].name.split()[-1]))

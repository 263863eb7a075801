"""Registers a job's model in MLflow, without weights. Jobs with the same model share one entry.

MLflow creates a model for each training run. Here a model is evaluated many times, and its page
is useful only if it has all its results.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from runner.tracking import published_index
from runner.tracking.stores import Store
from runner_base import Record

log = logging.getLogger(__name__)

CHECKED_AGAIN_S = 600  # a model that is deleted in MLflow is made anew after so long
DIGEST = "runner.digest"  # the tag by which the same model is found again


_known: dict[tuple[str, str, str], str] = {}  # uri, experiment, digest -> the model's id


def log_model(client: Any, store: Store, experiment_id: str, run_id: str, record: Record) -> str | None:
    """Return the MLflow id of a job's model, and create the model if it does not exist.

    Returns None if the store does not support models.
    """
    from mlflow.exceptions import MlflowException

    if not record.model:
        return None
    digest = record.model["digest"]
    try:
        key = store.uri, experiment_id, digest
        if (
            key not in _known
            and (model_id := find_logged_model_id(client, store, experiment_id, digest)) is not None
        ):
            _known[key] = model_id
        if key in _known:
            return _known[key]
        params = {key: value[:500] for key, value in record.model["params"].items()}
        made = client.create_logged_model(
            experiment_id, record.model["name"], run_id, {DIGEST: digest}, params, model_type="language model"
        )
        client.finalize_logged_model(made.model_id, "READY")
    except MlflowException as error:  # a server from before MLflow 3 does not know these requests
        log.warning(
            "runs are logged without models, because this MLflow store does not support models: %s",
            str(error).splitlines()[0],
        )
        return None
    return _known.setdefault(key, str(made.model_id))


def find_logged_model_id(client: Any, store: Store, experiment_id: str, digest: str) -> str | None:
    """Return the MLflow id of the model with this digest, or None.

    MLflow returns a model together with the metrics of all its jobs. So an id is cached for a while
    after it was found in a database.
    """
    experiment = store.redacted_uri, experiment_id
    noted = [
        model
        for model in published_index.read_index_entries(store.output_dir, digest)
        if (model.experiment, model.identity) == experiment
    ]
    if (
        store.sqlite_file is not None
        and noted
        and abs(time.time() - noted[-1].time_ms / 1000) < CHECKED_AGAIN_S
    ):
        return noted[-1].mlflow_id
    found = client.search_logged_models([experiment_id], f"tags.`{DIGEST}` = '{digest}'", max_results=1)
    if found and store.sqlite_file is not None:
        now_ms = int(time.time() * 1000)
        published_index.append_index_entry(
            store, published_index.PublishedEntry(digest, found[0].model_id, *experiment, now_ms, None, "")
        )
    return str(found[0].model_id) if found else None

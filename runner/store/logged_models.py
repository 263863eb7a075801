"""A job's model as MLflow keeps it: its name, what distinguishes it, no weights. Jobs with the same model share one.

MLflow makes a model for each training run. Here a model is evaluated many times, and its page is worth reading only if
it has all its results.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from runner.config.root import RunnerConfig, semantic_keys
from runner.core.result import Record
from runner.core.texts import short_hash
from runner.core.uris import sqlite_path
from runner.store import sqlite_runs

log = logging.getLogger(__name__)

GROUPS = ("model", "quantization", "lora", "rope")  # what is loaded
DIGEST = "runner.digest"  # the tag by which the same model is found again


def describe(config: RunnerConfig, params: dict[str, str], model_sha256: str) -> dict[str, Any]:
    """Return name, digest and params of the model of a job; empty for a job without one."""
    if not model_sha256:
        return {}
    of_model = {key: value for key, value in params.items() if key.partition(".")[0] in GROUPS}
    counted = {key: str(value) for key, value in semantic_keys(config) if key.partition(".")[0] in GROUPS}
    identity = [model_sha256, sorted(counted.items()), of_model.get("lora.path")]
    names = [config.model.name.rpartition("/")[2], config.quantization.label, config.lora.name, config.rope.name]
    name = " ".join(part for part in names if part not in ("none", "native"))
    digest = short_hash(identity, 16)
    return {"name": re.sub(r"[^\w\- ]", "-", name)[:200], "digest": digest, "params": of_model}


_known: dict[tuple[str, str, str], str] = {}  # uri, experiment, digest -> the model's id


def log_model(client: Any, uri: str, experiment_id: str, run_id: str, record: Record) -> str | None:
    """Return the id of a job's model in MLflow, which is made if it is not there; None if the store keeps no models."""
    from mlflow.exceptions import MlflowException

    if not record.model:
        return None
    digest = record.model["digest"]
    try:
        key = uri, experiment_id, digest
        if key not in _known and (model_id := find_model(client, uri, experiment_id, digest)) is not None:
            _known[key] = model_id
        if key in _known:
            return _known[key]
        params = {key: value[:500] for key, value in record.model["params"].items()}
        made = client.create_logged_model(
            experiment_id, record.model["name"], run_id, {DIGEST: digest}, params, model_type="language model"
        )
        client.finalize_logged_model(made.model_id, "READY")
    except MlflowException as error:  # a server from before MLflow 3 does not know these requests
        log.warning("this MLflow store keeps no models, the runs are logged without: %s", str(error).splitlines()[0])
        return None
    return _known.setdefault(key, str(made.model_id))


def find_model(client: Any, uri: str, experiment_id: str, digest: str) -> str | None:
    """Return the id of the model with this digest; None if it is not there."""
    if (file := sqlite_path(uri)) is not None:  # MLflow's client would read the metrics of all jobs with this model
        return sqlite_runs.model_with_tag(file, experiment_id, DIGEST, digest)
    found = client.search_logged_models([experiment_id], f"tags.`{DIGEST}` = '{digest}'", max_results=1)
    return str(found[0].model_id) if found else None

"""Adds a saved view to MLflow's run table, in which the scores come first.

MLflow's own view of the table shows no metric, and no tag can change it. A shared view is a tag
of the experiment, and is opened by its address.
"""

from __future__ import annotations

import json
from typing import Any

from runner.tracking import stores
from runner_base import redact_secrets
from runner_compare import LOG_LIKELIHOOD

VIEW = "runner"
TAG = f"mlflow.sharedViewState.{VIEW}"
LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` listens
VERDICT_TAG = "verdict"  # of a run that a gate has judged
RUN_NAME = "attributes.`Run Name`"
# what each task is for, and what it costs; MLflow leaves out the columns that no run has
METRICS = (
    *(
        "accuracy",
        "acc",
        LOG_LIKELIHOOD,
        "kl_nats_per_token",
        "best_decode_tok_per_s",
        "best_output_tok_per_s",
    ),
    *("peak_over_baseline_mib", "decode_tok_per_s", "weight_mib", "peak_rss_mib"),
)
PARAMS = ("model.name", "quantization.name", "lora.name", "lora.path", "task.split")


def build_run_table_view_json() -> str:
    """Return the saved view of MLflow's run table as JSON. The view lists all jobs, newest first."""
    columns = [*(f"metrics.`{key}`" for key in METRICS), *(f"params.`{key}`" for key in PARAMS)]
    columns[1:1] = [f"tags.`{VERDICT_TAG}`", "metrics.`delta_points`"]  # of a gate, where one was logged
    return json.dumps(
        {
            "selectedColumns": columns,
            "columnOrder": [RUN_NAME, *columns],
            "columnWidths": {RUN_NAME: 300},
            "searchFilter": "tags.job_id LIKE '%'",
            # By any key but the time, MLflow shows jobs beside their grids, not hidden below them.
            # All runs have the same source, and of equals the newest comes first.
            "orderByKey": "tags.`mlflow.source.name`",
            "orderByAsc": False,
        }
    )


def store_run_table_view(client: Any, experiment: Any) -> None:
    """Store the saved view in an experiment, unless its current version is already stored."""
    if experiment.tags.get(TAG) != build_run_table_view_json():
        client.set_experiment_tag(experiment.experiment_id, TAG, build_run_table_view_json())


def build_run_table_view_url(uri: str, experiment_id: str) -> str:
    server = redact_secrets(uri).rstrip("/") if stores.is_server(uri) else LOCAL
    return f"{server}/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}"

"""Selects the metrics that MLflow receives: at most 40 per likelihood job.

Percentiles and the ends of all intervals make more than a hundred metrics of a likelihood job,
among which nobody finds the divergence. The omitted ones are in the run's artifact result.json,
which a comparison without the job's folder reads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.records.jobs import RESULT
from runner.render.notes import format_note
from runner.tracking.job_progress import PREFIX as PROGRESS_PREFIX
from runner.tracking.stored_runs import download_artifact
from runner_base import Record, print_message, to_one_line
from runner_base.notes import note
from runner_compare import ENDS, LOG_LIKELIHOOD, BetterDirection, find_metric

MOST = 40
LEFT_OUT = "metrics_left_out"  # a tag: how many further ones result.json has
# In this order: what the task is for, with its interval; how far the model is from its reference;
# what it costs
WITH_ENDS = (
    LOG_LIKELIHOOD,
    "kl_nats_per_token",
    "top_1_agreement",
    "acc",
    "acc_norm",
    "perplexity",
    "bits_per_byte",
)
FIRST = ("n", "errors", "rank_1_share", "kl_median_nats", "kl_p95_nats", "kl_p99_nats", "kl_max_nats", "ln_ppl_ratio",
         "delta_p_rms", "scored_tokens", "model_mib", "weight_mib", "peak_rss_mib", "prefill_tok_per_s", "load_s",
         "seconds")  # fmt: skip
ORDER = {key: at for at, key in enumerate([*(f"{key}{end}" for key in WITH_ENDS for end in ENDS), *FIRST])}


def select_logged_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Select the metrics that MLflow receives. For a likelihood job, only the most important metrics
    are selected.
    """
    if LOG_LIKELIHOOD not in metrics or len(metrics) <= MOST:
        return dict(metrics)
    # sorting keeps the task's own order among equals
    chosen = {*sorted(metrics, key=_get_metric_priority)[:MOST]}
    return {key: value for key, value in metrics.items() if key in chosen}


def _get_metric_priority(key: str) -> tuple[int, int]:
    if key in ORDER:
        return 0, ORDER[key]
    is_plain = "/" not in key and not key.endswith(ENDS[1:])
    return (
        1 if is_plain and find_metric(key).better is not BetterDirection.neither else 2 if is_plain else 3
    ), 0


def read_all_metrics(
    client: Any, run_id: str, tags: Mapping[str, str], metrics: dict[str, float]
) -> dict[str, float]:
    """Return all metrics of an MLflow run, including the metrics that are stored only in an artifact.

    The job's progress is left out, because it is no result.
    """
    metrics = {key: value for key, value in metrics.items() if not key.startswith(PROGRESS_PREFIX)}
    if LEFT_OUT not in tags:
        return metrics
    with tempfile.TemporaryDirectory() as scratch:
        try:
            file = download_artifact(client, run_id, RESULT, Path(scratch))
            if file is None:
                raise FileNotFoundError(f"it has no {RESULT}")
            return metrics | Record.from_json(file.read_text(encoding="utf-8")).result.metrics
        except (OSError, ValueError, KeyError, TypeError) as error:
            missing = note("metrics_unreadable", run=run_id, count=tags[LEFT_OUT], reason=to_one_line(error))
            print_message(f"note: {format_note(missing)}")
            return metrics

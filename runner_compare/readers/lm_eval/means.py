"""Recompute the means in lm-eval's results file from its documents.

A metric of all documents together (a corpus' BLEU, a class' F1) cannot be recomputed, and
is not checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from runner_compare.model.question_metrics import parse_lm_eval_metric_value
from runner_compare.readers.lm_eval.files import Results
from runner_compare.readers.tool_run import to_finite_number

# lm-eval's aggregation of a metric for which the task's settings name none, and the metrics of a
# task that names none
AGGREGATIONS = {
    **dict.fromkeys(("acc", "acc_norm", "acc_mutual_info", "acc_bytes", "exact_match", "likelihood"), "mean"),
    "brier_score": "brier_score",
    "perplexity": "perplexity",
    "word_perplexity": "weighted_perplexity",
    "byte_perplexity": "weighted_perplexity",
    "bits_per_byte": "bits_per_byte",
}
METRICS = {
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
}


def find_metric_aggregation(results: Results, task: str, metric: str) -> str | None:
    """Return how lm-eval aggregated a metric over documents; None if the file does not record it."""
    config = results.find_task_entry_in_results("configs", task) or {}
    metric_list = config.get("metric_list")
    if not metric_list:
        return AGGREGATIONS.get(metric) if metric in METRICS.get(str(config.get("output_type")), ()) else None
    entry = next(
        (
            metric_entry
            for metric_entry in metric_list
            if isinstance(metric_entry, dict) and metric_entry.get("metric") == metric
        ),
        None,
    )
    return None if entry is None else str(entry.get("aggregation") or AGGREGATIONS.get(metric))


def recompute_metric(aggregation: str | None, values: Sequence[Any]) -> float | None:
    """Recompute a metric from its values per document; None if it is not a mean."""
    compute = COMPUTED.get(aggregation or "")
    if compute is None or not values:
        return None
    try:
        return compute(values)
    except (_NoNumber, OverflowError, ZeroDivisionError):
        return None


class _NoNumber(Exception):
    """Raised if a document has no numeric value, so the mean is undefined."""


def _mean(values: Sequence[Any]) -> float:
    return math.fsum(map(_require_finite_number, values)) / len(values)


def _nan_mean(values: Sequence[Any]) -> float:
    return _mean([value for value in values if not (isinstance(value, float) and math.isnan(value))])


def _mean_brier_score(pairs: Sequence[Any]) -> float:
    return _mean([parse_lm_eval_metric_value(pair) if isinstance(pair, list) else None for pair in pairs])


def _weighted_mean(pairs: Sequence[Any]) -> float:
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise _NoNumber
    return math.fsum(_require_finite_number(value) for value, _ in pairs) / math.fsum(
        _require_finite_number(weight) for _, weight in pairs
    )


def _require_finite_number(value: Any) -> float:
    number = to_finite_number(value)
    if number is None:
        raise _NoNumber
    return number


COMPUTED: dict[str, Callable[[Sequence[Any]], float]] = {
    "mean": _mean,
    "nanmean": _nan_mean,
    "brier_score": _mean_brier_score,
    "perplexity": lambda values: math.exp(-_mean(values)),
    "weighted_perplexity": lambda pairs: math.exp(-_weighted_mean(pairs)),
    "bits_per_byte": lambda pairs: -_weighted_mean(pairs) / math.log(2),
}

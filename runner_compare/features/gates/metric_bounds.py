"""Computes lower and upper bounds of a run's metric.

A requirement must hold at the worse end of the interval, because a measured value exceeds a
limit by chance in half of the cases if the true value is at the limit. Counts and sizes are
exact: another run would find the same values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from runner_base import format_count
from runner_base.spreads import compute_median_interval, compute_min_values_for_interval
from runner_compare.metrics import DELTA_P_SHARES, KL_SHARES, PoolingRule, find_metric
from runner_compare.metrics.likelihoods import KL, LOG_LIKELIHOODS, LOSS
from runner_compare.model.data import ALONE_KEYS, NotPaired, Run
from runner_compare.model.repeated_runs import collect_repeated_measurements, list_repeated_metric_values
from runner_compare.reader import Reader
from runner_compare.statistics.ratios import MIN_TEXTS
from runner_compare.statistics.stats import compute_clopper_pearson_interval
from runner_compare.statistics.token_percentiles import min_texts_for_interval
from runner_compare.ways.repeats import load_compared_repeats

AT_MOST = "_at_most"  # of a figure that is a lower bound: the upper one
SHARES = KL_SHARES | DELTA_P_SHARES
# besides percentiles, the metrics whose interval is over texts: more runs of a job add nothing
OVER_TEXTS = {
    *LOG_LIKELIHOODS.values(),
    LOSS,
    KL,
    "bits_per_token",
    "bits_per_byte",
    "perplexity",
    "rank_1_share",
    "top_1_agreement",
    "delta_p_mean",
    "delta_p_rms",
    "ln_ppl_ratio",
}
# sizes that the system reports, which differ from process to process; all others follow from the
# model and the texts
REPORTED = re.compile(r"rss|pss|anon|cuda|gpu|baseline|mapped_files|held")
PREDICTED = re.compile(r"predicted_|.*_p$")  # the result of a formula, or of a test
OF_THE_MODEL = {
    "answers_each",
    "balance",
    "base_loads",
    "batch_invariant",
    "double_bos",
    "files",
    "lora_delta_norm",
    "lora_modules",
    "lora_parameters",
    "lora_rank",
    "made_for_positions",
    "max_positions",
    "num_parts",
    "parameters",
    "problems",
    "processes",
    "quantized_modules",
    "repeats",
    "rope_pairs",
    "rope_pairs_patched",
    "samples_per_question",
    "tensors",
    "total_params",
    "unquantized_linears",
    "vocab_size",
    "written_parts",
}


@dataclass(frozen=True)
class BoundedMetric:
    """A metric's value with lower and upper bounds. Equal bounds mean that the value is exact."""

    value: float
    low: float | None  # None: not known
    high: float | None
    why: str = ""  # what an unknown end would take
    between: str = ""  # of ends that are not those of an interval: what they stand for

    @property
    def is_exact(self) -> bool:
        return self.low == self.value == self.high


def find_metric_bounds(run: Run, key: str, reader: Reader | None = None) -> BoundedMetric | None:
    """Return a run's metric with its lower and upper bound; None if the run does not have the metric."""
    if key == "accuracy" and run.accuracy_interval is not None:
        return _compute_accuracy_with_bounds(run)
    value = run.metrics.get(key)
    if value is None:
        return None
    name, _, category = key.partition("/")
    of = f"/{category}" if category else ""
    ends = _get_recorded_confidence_interval(run.metrics, name.removesuffix(AT_MOST), of)
    if ends is not None:
        low, high = ends
        if name == KL:  # a reference without sampled tokens gives a lower bound
            high += run.metrics.get(f"kl_truncation_nats_per_token{of}", 0.0)
        return BoundedMetric(value, low, high)
    if has_no_sampling_error(name) or _is_interval_end(run.metrics, name, of):
        return BoundedMetric(value, value, value)
    if name in SHARES or name in OVER_TEXTS:
        return BoundedMetric(value, None, None, _format_too_few_documents_message(run, name, of))
    if find_metric(name).unit in ("MiB", "s", "J") or "/" in find_metric(name).unit:
        return _compute_median_bounds_over_runs(run, key, value, reader)
    return BoundedMetric(value, None, None)


def has_no_sampling_error(name: str) -> bool:
    """Whether a metric has no sampling error, such as a count or a computed size."""
    metric = find_metric(name)
    if metric.unit == "MiB":
        return REPORTED.search(name) is None or name.startswith("predicted_")
    return (
        (metric.pooling is PoolingRule.sum and not metric.unit)
        or bool(PREDICTED.match(name))
        or name in OF_THE_MODEL
    )


def is_event_count_metric(key: str) -> bool:
    """Return whether a metric counts events, such as cut-off answers. Counts do not generalize to
    other questions.
    """
    metric = find_metric(key.partition("/")[0])
    return metric.pooling is PoolingRule.sum and not metric.unit and metric.key not in OF_THE_MODEL


def _compute_accuracy_with_bounds(run: Run) -> BoundedMetric:
    """Return the accuracy with its bounds. Cut-off answers count as wrong for the lower, as correct
    for the upper.
    """
    value, low, high = run.accuracy_interval or (math.nan, math.nan, math.nan)
    if run.accuracy_bounds is None:
        if run.correct_and_total is not None and not run.has_dependent_answers:
            # each end of Wilson's is beyond in up to 3.3 %
            low, high = compute_clopper_pearson_interval(*run.correct_and_total)
        return BoundedMetric(value, low, high)
    return BoundedMetric(
        value, run.accuracy_bounds.low, run.accuracy_bounds.high, between="cut-off answers wrong … right"
    )


def _get_recorded_confidence_interval(
    metrics: Mapping[str, float], name: str, suffix: str
) -> tuple[float, float] | None:
    """Return the lower and upper end of a metric's recorded confidence interval, or None."""
    low, high = (metrics.get(f"{name}{end}{suffix}") for end in ("_low", "_high"))
    return None if low is None or high is None else (low, high)


def _is_interval_end(metrics: Mapping[str, float], name: str, suffix: str) -> bool:
    return any(
        name.endswith(end) and f"{name.removesuffix(end)}{suffix}" in metrics for end in ("_low", "_high")
    )


def _compute_median_bounds_over_runs(
    run: Run, key: str, value: float, reader: Reader | None
) -> BoundedMetric:
    """Return the median of a measured metric over a job's runs, with an exact confidence interval."""
    values = _load_metric_values_per_process(run, key, reader)
    ends = compute_median_interval(values)
    if ends is None:
        has = format_count(max(1, len(values)), "run")
        return BoundedMetric(
            value, None, None, f"{has}; an interval needs {compute_min_values_for_interval()}: {ALONE_KEYS}"
        )
    return BoundedMetric(median(values), *ends)


def _load_metric_values_per_process(run: Run, key: str, reader: Reader | None) -> list[float]:
    """Return one metric value per process.

    A process is a run, or a repeat that ran in its own process.
    """
    try:
        repeats = load_compared_repeats(run, reader).get(key) if reader is not None else None
    except NotPaired:
        repeats = None
    of_repeats = collect_repeated_measurements(run, key, repeats) if repeats and min(repeats) > 0 else None
    if of_repeats is not None and of_repeats.has_fresh_processes:
        return list(of_repeats.runs)
    return list_repeated_metric_values(run, key)


def _format_too_few_documents_message(run: Run, name: str, suffix: str) -> str:
    """Return a message if there are too few documents for a confidence interval; otherwise ""."""
    unit = "families" if not suffix and "families" in run.metrics else "n"
    texts = run.metrics.get(f"{unit}{suffix}")
    needed = max(MIN_TEXTS, min_texts_for_interval(SHARES[name])) if name in SHARES else MIN_TEXTS
    if texts is None or texts >= needed:
        return ""
    return f"only {texts:,.0f} {'documents' if unit == 'n' else 'clusters'}, but an interval needs {needed:,}"

"""How surely a row's metric is known: between which ends it lies, whether it is exact, or why
neither can be said.

A gate passes by the end that is worse for it, since a measured value is beyond a limit by chance as
often as not where the truth is at the limit. Counts and sizes are exact: another run would find the
same ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from runner_base import counted
from runner_base.spreads import fewest_with_interval, median_interval
from runner_compare.metrics import DELTA_P_SHARES, KL_SHARES, Pooling, described
from runner_compare.metrics.likelihoods import KL, LOG_LIKELIHOODS, LOSS
from runner_compare.model.data import ALONE_KEYS, NotPaired, Run
from runner_compare.model.repeated_runs import measured, values_of
from runner_compare.reader import Reader
from runner_compare.statistics.ratios import MIN_TEXTS
from runner_compare.statistics.stats import exact_interval
from runner_compare.statistics.token_percentiles import texts_needed
from runner_compare.ways.repeats import repeats_of

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
class Known:
    """The value of a metric, and the ends between which it lies: the value itself where it is
    exact."""

    value: float
    low: float | None  # None: not known
    high: float | None
    why: str = ""  # what an unknown end would take
    between: str = ""  # of ends that are not those of an interval: what they stand for

    @property
    def is_exact(self) -> bool:
        """Whether it has no error."""
        return self.low == self.value == self.high


def known_of(run: Run, key: str, reader: Reader | None = None) -> Known | None:
    """Return how surely a metric of a run is known; None if it has none."""
    if key == "accuracy" and run.interval is not None:
        return _accuracy(run)
    value = run.metrics.get(key)
    if value is None:
        return None
    name, _, category = key.partition("/")
    of = f"/{category}" if category else ""
    ends = _recorded(run.metrics, name.removesuffix(AT_MOST), of)
    if ends is not None:
        return Known(value, *ends)
    if is_exact(name) or _is_an_end(run.metrics, name, of):
        return Known(value, value, value)
    if name in SHARES or name in OVER_TEXTS:
        return Known(value, None, None, _texts_missing(run, name, of))
    if described(name).unit in ("MiB", "s", "J") or "/" in described(name).unit:
        return _over_runs(run, key, value, reader)
    return Known(value, None, None)


def is_exact(name: str) -> bool:
    """Whether a metric has no error: what was counted, what it cost, and sizes that are
    computed."""
    metric = described(name)
    if metric.unit == "MiB":
        return REPORTED.search(name) is None or name.startswith("predicted_")
    return (
        (metric.pooling is Pooling.sum and not metric.unit)
        or bool(PREDICTED.match(name))
        or name in OF_THE_MODEL
    )


def counts_one_run(key: str) -> bool:
    """Whether a metric is a count of what happened in one run, which says nothing about other
    questions."""
    metric = described(key.partition("/")[0])
    return metric.pooling is Pooling.sum and not metric.unit and metric.key not in OF_THE_MODEL


def _accuracy(run: Run) -> Known:
    """Return an accuracy; where answers were cut off, from all of them wrong to all of them
    right."""
    value, low, high = run.interval or (math.nan, math.nan, math.nan)
    if run.bounds is None:
        if run.score is not None and not run.has_dependent_answers:
            low, high = exact_interval(*run.score)  # each end of Wilson's is beyond in up to 3.3 %
        return Known(value, low, high)
    return Known(value, run.bounds.low, run.bounds.high, between="cut-off answers wrong … right")


def _recorded(metrics: Mapping[str, float], name: str, of: str) -> tuple[float, float] | None:
    """Return the ends of a recorded interval."""
    low, high = (metrics.get(f"{name}{end}{of}") for end in ("_low", "_high"))
    return None if low is None or high is None else (low, high)


def _is_an_end(metrics: Mapping[str, float], name: str, of: str) -> bool:
    """Whether a metric is itself the end of a recorded interval."""
    return any(name.endswith(end) and f"{name.removesuffix(end)}{of}" in metrics for end in ("_low", "_high"))


def _over_runs(run: Run, key: str, value: float, reader: Reader | None) -> Known:
    """Return what was measured in a process: the median of its job's runs, with an exact
    interval."""
    values = _figures(run, key, reader)
    ends = median_interval(values)
    if ends is None:
        has = counted(max(1, len(values)), "run")
        return Known(value, None, None, f"{has}, of {fewest_with_interval()} there is one: {ALONE_KEYS}")
    return Known(median(values), *ends)


def _figures(run: Run, key: str, reader: Reader | None) -> list[float]:
    """Return a figure for each process: of each run, or of each repeat that was one of its own."""
    try:
        repeats = repeats_of(run, reader).get(key) if reader is not None else None
    except NotPaired:
        repeats = None
    of_repeats = measured(run, key, repeats) if repeats and min(repeats) > 0 else None
    if of_repeats is not None and of_repeats.has_fresh_processes:
        return list(of_repeats.runs)
    return values_of(run, key)


def _texts_missing(run: Run, name: str, of: str) -> str:
    """Return how many texts, or families of texts, an interval needs; empty if there are enough."""
    unit = "families" if not of and "families" in run.metrics else "n"
    texts = run.metrics.get(f"{unit}{of}")
    needed = max(MIN_TEXTS, texts_needed(SHARES[name])) if name in SHARES else MIN_TEXTS
    if texts is None or texts >= needed:
        return ""
    return f"needs at least {needed:,} {'texts' if unit == 'n' else unit}, has {texts:,.0f}"

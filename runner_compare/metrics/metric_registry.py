"""Registry of all known metrics: from the modules of this folder, from options and from plug-ins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module

from runner_base import ConfigError, entry_points, find_plug_ins, load_plug_in_object, print_message
from runner_compare.metrics.answers import BY_ANSWERS
from runner_compare.metrics.metric_types import SPREADS, Metric, define_metric

FAMILIES = ("answers", "likelihoods", "speed", "models")
GROUP = "runner.metric_families"  # options hand over theirs by these entry points


@cache
def known_metrics() -> Mapping[str, Metric]:
    """Return the definitions of all metrics by key, except those of plug-ins."""
    return {known.key: known for family in _iter_metric_groups() for known in family}


def _iter_metric_groups() -> Iterator[tuple[Metric, ...]]:
    for name in FAMILIES:
        yield import_module(f"runner_compare.metrics.{name}").METRICS
    for name in entry_points.find_entry_points(GROUP):
        yield entry_points.load_entry_point(GROUP, name, tuple)


def find_metric(key: str) -> Metric:
    """Return the definition of a metric by key.

    The key may have the suffix of a sweep cell (`ttft_s/batch_4_prompt_64`) or of a spread
    (`…_max`). An unknown key gets a definition derived from its unit.
    """
    known = known_metrics()
    base, _, cell = key.partition("/")
    if base in BY_ANSWERS and cell:
        return replace(known[base], key=key, label=BY_ANSWERS[base].format(cell))
    for name in (base, *(base.removesuffix(suffix) for suffix in SPREADS)):
        if name in known:
            return known[name]
        if name in find_plug_ins("metric"):
            return load_plug_in_metric(name) or define_metric(base)
    return define_metric(base)


def list_max_k_vote_metric_keys(jobs: Iterable[Mapping[str, float]]) -> list[str]:
    """Return the keys of pass@k and maj@k for which k equals the number of answers per question."""
    jobs = list(jobs)
    counts = sorted({f"{job['answers_each']:.0f}" for job in jobs if job.get("answers_each", 1) > 1}, key=int)
    keys = [f"{key}/{count}" for count in counts for key in ("pass_at_k", "maj_at_k")]
    return [key for key in keys if any(key in job for job in jobs)]


def plug_in_metric_keys(jobs: Iterable[Mapping[str, float]]) -> list[str]:
    names = [name for name in find_plug_ins("metric") if name not in known_metrics()]
    return [name for name in names if any(name in job for job in jobs)] if names else []


@cache
def load_plug_in_metric(name: str) -> Metric | None:
    """Load the metric definition of a plug-in. If the import fails, warn and return None."""
    try:
        return load_plug_in_object("metric", name, Metric)
    except ConfigError as error:
        print_message(f"warning: {error}")
        return None

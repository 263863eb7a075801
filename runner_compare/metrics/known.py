"""All metrics that are known: each family is a module beside this one, or an option's, or a
plug-in's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module

from runner_base import ConfigError, doors, load_object, plug_ins, say
from runner_compare.metrics.answers import BY_ANSWERS
from runner_compare.metrics.kinds import SPREADS, Metric, metric

FAMILIES = ("answers", "likelihoods", "speed", "models")
GROUP = "runner.metric_families"  # options hand over theirs by these entry points


@cache
def known_metrics() -> Mapping[str, Metric]:
    """Return the metrics of all families and options by their keys; a plug-in's are not among
    them."""
    return {known.key: known for family in _families() for known in family}


def _families() -> Iterator[tuple[Metric, ...]]:
    for name in FAMILIES:
        yield import_module(f"runner_compare.metrics.{name}").METRICS
    for name in doors.entries(GROUP):
        yield doors.load(GROUP, name, tuple)


def described(key: str) -> Metric:
    """Return the metric of a key, also for a cell (`ttft_s/batch_4_prompt_64`) or a spread
    (`…_max`).

    A key that neither these nor a plug-in describes is described by its unit.
    """
    known = known_metrics()
    base, _, cell = key.partition("/")
    if base in BY_ANSWERS and cell:
        return replace(known[base], key=key, label=BY_ANSWERS[base].format(cell))
    for name in (base, *(base.removesuffix(suffix) for suffix in SPREADS)):
        if name in known:
            return known[name]
        if name in plug_ins("metric"):
            return of_plug_in(name) or metric(base)
    return metric(base)


def of_all_answers(jobs: Iterable[Mapping[str, float]]) -> list[str]:
    """Return pass@k and maj@k over all answers that jobs have to each question: they stand beside
    the accuracy."""
    jobs = list(jobs)
    counts = sorted({f"{job['answers_each']:.0f}" for job in jobs if job.get("answers_each", 1) > 1}, key=int)
    keys = [f"{key}/{count}" for count in counts for key in ("pass_at_k", "maj_at_k")]
    return [key for key in keys if any(key in job for job in jobs)]


def of_plug_ins(jobs: Iterable[Mapping[str, float]]) -> list[str]:
    names = [name for name in plug_ins("metric") if name not in known_metrics()]
    return [name for name in names if any(name in job for job in jobs)] if names else []


@cache
def of_plug_in(name: str) -> Metric | None:
    """Return a plug-in's description of a metric; None, with a warning, if it cannot be
    imported."""
    try:
        return load_object("metric", name, Metric)
    except ConfigError as error:
        say(f"warning: {error}")
        return None

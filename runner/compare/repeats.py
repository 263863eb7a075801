"""Runs without verdicts, compared by their repeats: a sweep's cells, the figures of a memory benchmark."""

from __future__ import annotations

import math
from statistics import median

from runner.compare.data import Finding, NotPaired, Ratio, Row, Run
from runner.compare.evidence import Evidence
from runner.compare.pairing import ALPHA
from runner.core.metrics import BY_REPEATS
from runner.core.repeats import FILE, read_repeats
from runner.core.stats import bootstrap_ratio_interval, holm, rank_sum_exact


def compare_repeats(run: Run, base: Run, evidence: Evidence) -> list[Ratio]:
    """Return the ratio to the baseline for every measure that both runs repeated."""
    if run.task_version != base.task_version:
        versions = f"version {base.task_version}, this run with version {run.task_version}"
        raise NotPaired(f"measured differently: the baseline with {versions}")
    ours, theirs = repeats_of(run, evidence), repeats_of(base, evidence)
    shared = [name for name in ours if name in theirs and min(*ours[name], *theirs[name]) > 0]
    if not shared:
        raise NotPaired("nothing was measured in both: " + "; ".join(f"{', '.join(them)}" for them in (ours, theirs)))
    return [_ratio(name, ours[name], theirs[name]) for name in shared]


def _ratio(name: str, ours: list[float], theirs: list[float]) -> Ratio:
    low, high = bootstrap_ratio_interval(ours, theirs)
    ratio = median(ours) / median(theirs)
    return Ratio(name, ratio, low, high, len(ours), len(theirs), rank_sum_exact(ours, theirs))


def repeats_of(run: Run, evidence: Evidence) -> dict[str, list[float]]:
    """Return the repeats of each measure that runs are compared by, from the run's folder or from MLflow."""
    if "task.repeats" not in run.params:
        raise NotPaired(f"task={run.task} has neither verdicts nor repeats to compare by")
    for path in evidence.files(run, FILE):
        try:
            measures = read_repeats(path)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half written, perhaps: MLflow has another copy
        found = {name: measures[name] for key in BY_REPEATS for name in measures if name.partition("/")[0] == key}
        if found:
            return found
    raise NotPaired(f"no evidence: {FILE} of {run.job_id} is neither in its folder nor in MLflow, or not whole")


def judge_ratios(rows: list[Row]) -> None:
    """Adjust p over all comparisons of one figure in the table, and decide what each one shows."""
    families: dict[str, list[Ratio]] = {}
    for row in rows:
        for it in row.ratios:
            families.setdefault(it.measure.partition("/")[0], []).append(it)
    for family in families.values():
        for it, p_holm in zip(family, holm([one.p for one in family]), strict=True):
            it.p_holm, it.comparisons = p_holm, len(family)
            if p_holm < ALPHA and it.ratio != 1:
                it.finding = Finding.larger if it.ratio > 1 else Finding.smaller


def repeats_needed(comparisons: int) -> int:
    """Return how many repeats per side can show a difference in one of so many comparisons, if no values overlap."""
    needed = 1
    while 2 / math.comb(2 * needed, needed) >= ALPHA / comparisons:
        needed += 1
    return needed

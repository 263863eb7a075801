"""Runs without verdicts, compared by their repeats: a sweep's cells, the figures of a memory benchmark."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from runner.compare.data import Finding, NotPaired, Ratio, Row, Run
from runner.compare.evidence import REPEATS, Evidence
from runner.compare.pair import ALPHA
from runner.core.stats import bootstrap_ratio_interval, holm, rank_sum_exact

Measures = dict[str, list[float]]  # what was measured -> its repeats

SWEEP = ("decode_tok_per_s", "ttft_s")
MEMORY = ("cuda_peak_mib", "peak_over_baseline_mib", "peak_rss_mib", "steady_rss_mib", "load_s", "decode_tok_per_s")


def compare_repeats(run: Run, base: Run, evidence: Evidence) -> list[Ratio]:
    """Return this run over its baseline in every measure that both repeated."""
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


def repeats_of(run: Run, evidence: Evidence) -> Measures:
    """Return the repeats of each measure, from the run's folder or from MLflow."""
    readers: dict[str, Callable[[list[Any]], Measures]] = {"sweep": sweep_measures, "memory": memory_measures}
    if run.task not in readers:
        raise NotPaired(f"task={run.task} has neither verdicts nor repeats to compare by")
    for path in evidence.files(run, REPEATS):
        try:
            measures = readers[run.task](read_lines(path))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half written, perhaps: MLflow has another copy
        if measures:
            return measures
    raise NotPaired(f"no evidence: {REPEATS} of {run.job_id} is neither in its folder nor in MLflow, or not whole")


def read_lines(path: Path) -> list[Any]:
    """Read a file of one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def sweep_measures(lines: list[Any]) -> Measures:
    """Return a sweep's counted repeats by cell, as its metrics are named: decode_tok_per_s/batch_8_prompt_64."""
    measures: Measures = {}
    for figure in SWEEP:
        for line in lines:
            if line["counted"]:
                name = f"{figure}/batch_{line['batch_size']}_prompt_{line['prompt_tokens']}"
                measures.setdefault(name, []).append(float(line[figure]))
    return measures


def memory_measures(lines: list[Any]) -> Measures:
    """Return what each fresh process of a memory benchmark has measured."""
    measures: Measures = {}
    for line in lines:
        stages = line["figures"]
        peak_mib = max(stage["peak_rss_mib"] for stage in stages.values())
        values = {
            **line["metrics"],
            "peak_rss_mib": peak_mib,
            "peak_over_baseline_mib": peak_mib - stages["import"]["steady_rss_mib"],
            "steady_rss_mib": stages["decode"]["steady_rss_mib"],
        }
        if "cuda_peak_mib" in stages["decode"]:
            values["cuda_peak_mib"] = max(stage.get("cuda_peak_mib", 0.0) for stage in stages.values())
        for name in MEMORY:
            if name in values:
                measures.setdefault(name, []).append(float(values[name]))
    return {name: repeats for name, repeats in measures.items() if len(repeats) == len(lines)}


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
    """Return how many repeats a side can show a difference in each of so many comparisons, without any overlap."""
    needed = 1
    while 2 / math.comb(2 * needed, needed) >= ALPHA / comparisons:
        needed += 1
    return needed

"""Rank model files by KL divergence, with the uncertainty of the ranks, and find the Pareto front.

KLs are compared between files, paired on the same texts: a file is called closer to the
reference only if a test shows it, adjusted (Holm) over all pairs of files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations, permutations

from runner_compare.features.front.compute import MEMORY_TOLERANCE, find_dominators_on_pareto_front
from runner_compare.model.data import NotPaired, Run, Table, TableRow
from runner_compare.model.mean_pairs import find_cluster_field
from runner_compare.reader import Reader
from runner_compare.statistics import ALPHA, MIN_TEXTS, stats
from runner_compare.statistics.likelihoods import sum_likelihoods_by_document
from runner_compare.statistics.ratios import compute_paired_p_value
from runner_compare.ways.likelihoods import get_text_clusters, sums_by_cluster

KL = "kl_nats_per_token"
SPEED_AT = re.compile(r"decode_tok_per_s/batch_(\d+)_")
UNSEEN = 1.25  # times a file's largest KL over a text: its KL over one more text, which nobody has drawn
# axes of the front besides KL, and by how much noise moves them
SIZES = {"file_mib": 0.0, "model_mib": MEMORY_TOLERANCE}


class JobKind(StrEnum):
    """Kind of measurement that a job makes of a model file."""

    speed = "speed"
    accuracy = "accuracy"
    likelihood = "log-likelihood"


@dataclass
class FileRow:
    """One model file with the jobs that measured it."""

    name: str
    rows: dict[JobKind, TableRow]
    is_reference: bool = False
    # the best and the worst place that its KL may have among the others
    kl_rank: tuple[int, int] | None = None
    # the ranked files whose KL is shown to be higher
    closer_than: list[str] = field(default_factory=list)
    on_front: bool | None = None
    dominated_by: list[str] = field(default_factory=list)

    def find_metric(self, name: str, kind: JobKind) -> float | None:
        return self.rows[kind].run.metrics.get(name) if kind in self.rows else None


@dataclass
class FileTable:
    """Table of all model files, the reference file first."""

    files: list[FileRow]
    tables: dict[JobKind, Table]
    why_no_ranks: str = ""
    # by how much speeds may differ by noise alone, if the user says so
    tolerance: float | None = None
    margin: float | None = None  # nats a token of KL that do not matter, if the user says so

    def find_kind(self, metric: str) -> JobKind | None:
        return next(
            (kind for kind in JobKind if any(metric in row.run.metrics for row in self._rows_of_kind(kind))),
            None,
        )

    def find_decode_speed_metrics(self) -> dict[int, str]:
        """Return the name of the decoding-speed metric for each batch size, for the shortest prompts."""
        found: dict[int, str] = {}
        for name in sorted(
            {name for row in self._rows_of_kind(JobKind.speed) for name in row.run.metrics},
            key=_natural_sort_key,
        ):
            if at := SPEED_AT.match(name):
                found.setdefault(int(at[1]), name)
        return dict(sorted(found.items()))

    def _rows_of_kind(self, kind: JobKind) -> list[TableRow]:
        return [file.rows[kind] for file in self.files if kind in file.rows]


def _natural_sort_key(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def rank_model_files_by_kl(table: FileTable, reader: Reader) -> None:
    """Set the KL rank and the Pareto status of each file.

    If ranks are impossible, set the table's reason instead.
    """
    files = [
        file
        for file in table.files
        if JobKind.likelihood in file.rows and (file.is_reference or _mean_kl(file) is not None)
    ]
    try:
        if len(files) < 3:
            raise NotPaired("fewer than two files have a KL divergence")
        kls, sizes = load_kl_divergences_per_text(
            [file.rows[JobKind.likelihood].run for file in files], reader
        )
        if len(sizes) < MIN_TEXTS:
            raise NotPaired(f"only {len(sizes)} texts were scored, but the test needs {MIN_TEXTS}")
    except NotPaired as reason:
        table.why_no_ranks = str(reason)
        return
    closer = find_significantly_lower_kl_pairs(kls, sizes)
    ranked = [index for index, file in enumerate(files) if not file.is_reference]
    for index in ranked:
        better = sum((other, index) in closer for other in ranked)
        worse = sum((index, other) in closer for other in ranked)
        files[index].kl_rank = 1 + better, len(ranked) - worse
        files[index].closer_than = [files[other].name for other in ranked if (index, other) in closer]
    as_close = find_non_inferior_pairs(kls, sizes, table.margin) if table.margin is not None else set()
    _mark_pareto_front(table, files, closer, as_close)


def load_kl_divergences_per_text(
    runs: Sequence[Run], reader: Reader
) -> tuple[list[list[float]], list[float]]:
    """Return each run's KL divergence per text, and the tokens per text. The reference has a divergence of 0.

    A cluster counts as one text.
    """
    texts = [reader.load_text_scores(run) for run in runs]
    sides = [sum_likelihoods_by_document([score.likelihood for score in side.values()]) for side in texts]
    if any(
        [(likelihood.unit, likelihood.tokens) for likelihood in side]
        != [(likelihood.unit, likelihood.tokens) for likelihood in sides[0]]
        for side in sides
    ):
        raise NotPaired("the likelihood jobs of the files scored different tokens")
    kls, sizes = (
        [[likelihood.kl_nats or 0.0 for likelihood in side] for side in sides],
        [float(likelihood.tokens) for likelihood in sides[0]],
    )
    clusters = get_text_clusters(texts[0], texts[-1], find_cluster_field(runs[0], runs[-1]))
    if clusters is None:
        return kls, sizes
    return [sums_by_cluster(side, clusters) for side in kls], sums_by_cluster(sizes, clusters)


def find_significantly_lower_kl_pairs(
    kls: Sequence[Sequence[float]], tokens_per_text: Sequence[float]
) -> set[tuple[int, int]]:
    """Return pairs (a, b) of file indices where a has a significantly lower KL divergence than b."""
    ps: dict[tuple[int, int], float] = {}
    for first, second in combinations(range(len(kls)), 2):
        closer, farther = first, second
        if math.fsum(kls[first]) > math.fsum(kls[second]):
            closer, farther = second, first
        ps[closer, farther] = compute_lower_kl_p_value(kls[closer], kls[farther], tokens_per_text)
    return _select_significant_pairs(ps)


def find_non_inferior_pairs(
    kls: Sequence[Sequence[float]], tokens_per_text: Sequence[float], margin: float
) -> set[tuple[int, int]]:
    """Return pairs (a, b) of files where a is significantly non-inferior to b.

    The KL divergence of a exceeds that of b by less than the margin, in nats per token.
    """
    ps: dict[tuple[int, int], float] = {}
    for first, second in permutations(range(len(kls)), 2):
        ps[first, second] = compute_lower_kl_p_value(kls[first], kls[second], tokens_per_text, margin)
    return _select_significant_pairs(ps)


def compute_lower_kl_p_value(
    kls: Sequence[float], other_kls: Sequence[float], tokens_per_text: Sequence[float], margin: float = 0.0
) -> float:
    """Return the p-value of a test that one file's mean KL divergence is below another's plus a margin.

    The texts must show it, and also with one more, unobserved text: there the first file has
    its largest KL again, and the other one none. Otherwise a file whose KL comes from a few
    texts looks closer wherever these are missing (bench/compare/files_null.py).
    """
    gaps = [
        kl - other - margin * size for kl, other, size in zip(kls, other_kls, tokens_per_text, strict=True)
    ]
    all_sizes = [
        *tokens_per_text,
        math.fsum(size * size for size in tokens_per_text) / math.fsum(tokens_per_text),
    ]
    all_gaps = [*gaps, UNSEEN * max(kls)]
    if math.fsum(all_gaps) >= 0:
        return 1.0
    return max(compute_paired_p_value(gaps, tokens_per_text), compute_paired_p_value(all_gaps, all_sizes))


def _select_significant_pairs(p_values: dict[tuple[int, int], float]) -> set[tuple[int, int]]:
    return {
        pair for pair, p in zip(p_values, stats.holm_adjust([*p_values.values()]), strict=True) if p < ALPHA
    }


@dataclass(frozen=True)
class FrontAxis:
    """Pareto-front metric other than KL divergence. Relative differences up to the tolerance count
    as noise.
    """

    metric: str
    kind: JobKind
    is_higher_better: bool
    tolerance: float

    def compute_relative_metric_gain(self, file: FileRow, other_file: FileRow) -> float:
        """Return by which fraction one file is better than another in this metric.

        The result is negative if the file is worse, and 0 within noise.
        """
        value, other_value = (side.find_metric(self.metric, self.kind) or 0.0 for side in (file, other_file))
        share = value / other_value if self.is_higher_better else other_value / value
        is_beyond = share > 1 + self.tolerance or share < 1 / (1 + self.tolerance)
        return share - 1 if is_beyond else 0.0


def _choose_pareto_axes(table: FileTable) -> list[FrontAxis]:
    """Return the Pareto-front metrics other than KL divergence. Speed counts only with a known
    noise level.
    """
    kinds = {name: kind for name in SIZES if (kind := table.find_kind(name)) is not None}
    axes = [FrontAxis(name, kind, False, SIZES[name]) for name, kind in kinds.items()]
    if table.tolerance is None:
        return axes
    speeds = table.find_decode_speed_metrics().values()
    return axes + [FrontAxis(name, JobKind.speed, True, table.tolerance) for name in speeds]


def _mark_pareto_front(
    table: FileTable,
    files: list[FileRow],
    closer_pairs: set[tuple[int, int]],
    non_inferior_pairs: set[tuple[int, int]],
) -> None:
    """Mark the files on the Pareto front, which no other file dominates.

    A file dominates another if it has no more bytes, memory and time, and a significantly lower
    KL divergence. With a margin, it also dominates if it needs less of one of them and its KL
    divergence is higher by less than the margin. A file that lacks a metric is not marked.
    """
    axes = _choose_pareto_axes(table)
    known = [
        index
        for index, file in enumerate(files)
        if all(file.find_metric(axis.metric, axis.kind) is not None for axis in axes)
    ]

    def is_dominating(file_index: int, other_index: int) -> bool:
        gains = [axis.compute_relative_metric_gain(files[file_index], files[other_index]) for axis in axes]
        if file_index == other_index or min(gains, default=0.0) < 0:
            return False
        is_smaller_or_faster = max(gains, default=0.0) > 0
        return (file_index, other_index) in closer_pairs or (
            (file_index, other_index) in non_inferior_pairs and is_smaller_or_faster
        )

    dominators = [[at for at, other in enumerate(known) if is_dominating(other, index)] for index in known]
    for index, of_front in zip(known, find_dominators_on_pareto_front(dominators), strict=True):
        files[index].dominated_by = [files[known[at]].name for at in of_front]
        files[index].on_front = not of_front


def _mean_kl(file: FileRow) -> float | None:
    return file.find_metric(KL, JobKind.likelihood)


def find_tied_file_groups(table: FileTable) -> list[list[str]]:
    """Return the groups of ranked files whose KL divergences do not differ significantly.

    Each pair of tied files is in at least one group.
    """
    ranked = sorted(
        (file for file in table.files if file.kl_rank),
        key=lambda file: file.find_metric(KL, JobKind.likelihood) or 0.0,
    )
    told_apart = {frozenset((file.name, other)) for file in ranked for other in file.closer_than}
    names, groups = [file.name for file in ranked], list[list[str]]()
    for pair in combinations(names, 2):
        if frozenset(pair) in told_apart or any({*pair} <= {*group} for group in groups):
            continue
        group = [*pair]
        for name in names:
            if name not in group and not any(frozenset((name, other)) in told_apart for other in group):
                group.append(name)
        groups.append(sorted(group, key=names.index))
    return groups

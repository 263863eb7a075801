"""Model files side by side: the jobs of each file joined, their KL ranked with the uncertainty of
the ranks, the front.

Jobs belong to one file if their models have the same SHA-256 and are loaded and read in the same
way; the names of files, which may be equal in two folders, join nothing. KLs are compared file by
file, paired on the same texts: a file is called closer to the reference only if a test says so,
adjusted (Holm) over all pairs of files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations, permutations

from runner_base import ConfigError, few
from runner_base.files import shared_folder
from runner_compare.data import NotPaired, Run, Table, TableRow
from runner_compare.front import MEMORY_TOLERANCE, dominators_among_front
from runner_compare.key_rules import KeyRules
from runner_compare.mean_pairs import cluster_field
from runner_compare.reader import Reader
from runner_compare.selection import matches, parse_pairs
from runner_compare.statistics import ALPHA, MIN_TEXTS, stats
from runner_compare.statistics.likelihoods import units
from runner_compare.statistics.ratios import paired_p, ratio
from runner_compare.table import ComparisonOptions, tabulate
from runner_compare.ways.likelihoods import sums_by_cluster, text_clusters

KL = "kl_nats_per_token"
MODEL_SHA256 = "model_sha256"
# keys of how a file is loaded and read
WAYS = ("model.", "quantization.", "lora.", "rope.", "generation.kv_cache")
NOT_WAYS = (
    "model.name",
    "model.revision",
    "model.cache_dir",
    "model.threads",
    "model.check_memory",
)
SPEED_AT = re.compile(r"decode_tok_per_s/batch_(\d+)_")
# axes of the front, and by how much noise moves them
SIZES = {"file_mib": 0.0, "model_mib": MEMORY_TOLERANCE}


class Kind(StrEnum):
    """What a job says about a file."""

    speed = "speed"
    accuracy = "accuracy"
    likelihood = "log-likelihood"


@dataclass
class FileRow:
    """One model file with its jobs."""

    name: str
    rows: dict[Kind, TableRow]
    is_reference: bool = False
    # the best and the worst place that its KL may have among the others
    kl_rank: tuple[int, int] | None = None
    # the ranked files whose KL is shown to be higher
    closer_than: list[str] = field(default_factory=list)
    on_front: bool | None = None
    dominated_by: list[str] = field(default_factory=list)

    def metric(self, name: str, kind: Kind) -> float | None:
        """Return what a kind of job has measured; None if this file has no such job."""
        return self.rows[kind].run.metrics.get(name) if kind in self.rows else None


@dataclass
class FileTable:
    """All model files, the reference first."""

    files: list[FileRow]
    tables: dict[Kind, Table]
    why_no_ranks: str = ""
    # by how much speeds may differ by noise alone, if the user says so
    tolerance: float | None = None
    margin: float | None = None  # nats a token of KL that do not matter, if the user says so

    def kind_of(self, metric: str) -> Kind | None:
        """Return the first kind of job that has measured something."""
        return next(
            (kind for kind in Kind if any(metric in row.run.metrics for row in self._rows(kind))),
            None,
        )

    def speeds(self) -> dict[int, str]:
        """Return the metric of the decoding speed by the rows at once, for the shortest prompts
        that were measured."""
        found: dict[int, str] = {}
        for name in sorted(
            {name for row in self._rows(Kind.speed) for name in row.run.metrics}, key=_natural
        ):
            if at := SPEED_AT.match(name):
                found.setdefault(int(at[1]), name)
        return dict(sorted(found.items()))

    def _rows(self, kind: Kind) -> list[TableRow]:
        return [file.rows[kind] for file in self.files if kind in file.rows]


def file_table(
    runs: Sequence[Run],
    reader: Reader,
    baseline: str = "",
    margins: Mapping[str, float] | None = None,
    tolerance: float | None = None,
) -> FileTable:
    """Join the jobs of each model file, and compare all files with the reference, and their KLs
    with one another."""
    of_files: dict[tuple[object, ...], dict[Kind, Run]] = {}
    for run in runs:
        if (kind := kind_of(run)) is None:
            continue
        members = of_files.setdefault(identity_of(run), {})
        if kind in members:
            raise ConfigError(_two_jobs(run, members[kind], kind, reader.key_rules))
        members[kind] = run
    if len(of_files) < 2:
        raise ConfigError(
            "--files: the runs are of fewer than two model files: there is nothing to compare"
        )
    reference = _reference(of_files, [*runs], baseline)
    names = _names(of_files, reader.key_rules)
    rows: dict[str, TableRow] = {}
    tables: dict[Kind, Table] = {}
    for kind in Kind:
        of_kind = [members[kind] for members in of_files.values() if kind in members]
        base = of_files[reference].get(kind)
        if len(of_kind) > 1 and base is not None and kind is not Kind.speed:
            tables[kind] = tabulate(
                of_kind, ComparisonOptions(base=base, margins=dict(margins or {})), reader
            )
            rows |= {row.run.run_id: row for row in tables[kind].rows}
        else:
            rows |= {run.run_id: TableRow(run, {}) for run in of_kind}
    files = [
        FileRow(
            names[key], {kind: rows[run.run_id] for kind, run in members.items()}, key == reference
        )
        for key, members in of_files.items()
    ]
    kls = {file.name: file.metric(KL, Kind.likelihood) for file in files}
    files.sort(
        key=lambda file: (
            not file.is_reference,
            kls[file.name] is None,
            kls[file.name] or 0.0,
            file.name,
        )
    )
    table = FileTable(
        files, tables, tolerance=tolerance, margin=(margins or {}).get("log_likelihood")
    )
    rank_files(table, reader)
    return table


def kind_of(run: Run) -> Kind | None:
    """Return what a job says about its model file; None for other jobs."""
    if run.unit == "token":
        return Kind.likelihood
    if run.score is not None:
        return Kind.accuracy
    return Kind.speed if any(SPEED_AT.match(name) for name in run.metrics) else None


def identity_of(run: Run) -> tuple[object, ...]:
    """Return what jobs of one model file share: its content, and how it is loaded and read."""
    ways = {
        key: value
        for key, value in run.params.items()
        if key.startswith(WAYS) and key not in NOT_WAYS
    }
    return run.facts.get(MODEL_SHA256) or run.params.get("model.name", ""), *sorted(ways.items())


def _names(
    of_files: Mapping[tuple[object, ...], Mapping[Kind, Run]], rules: KeyRules
) -> dict[tuple[object, ...], str]:
    """Return a name for each file: its path below the folder of all, with what tells it from
    another of that path."""
    firsts = {key: next(iter(members.values())) for key, members in of_files.items()}
    folder = shared_folder(run.params.get("model.name", "") for run in firsts.values())
    names = {
        key: run.params.get("model.name", "").removeprefix(folder) for key, run in firsts.items()
    }
    for name in [
        name for name in dict.fromkeys(names.values()) if [*names.values()].count(name) > 1
    ]:
        same = [key for key in names if names[key] == name]
        differing = [
            key
            for key in rules.differing_keys([firsts[file].params for file in same])
            if key.startswith(WAYS)
        ]
        for key in same:
            settings = [
                f"{way.removesuffix('.name')}={firsts[key].params.get(way)}" for way in differing
            ]
            names[key] = " ".join([name, *(settings or [f"({str(key[0])[:8]})"])])
    return names


def _reference(
    of_files: Mapping[tuple[object, ...], Mapping[Kind, Run]], runs: list[Run], baseline: str
) -> tuple[object, ...]:
    """Return the file that the others are compared with: that of --baseline, or the one without a
    KL."""
    fix = "say which file is the reference: --baseline model.name=FILE"
    if baseline:
        wanted = parse_pairs(baseline, runs, "--baseline")
        found = [
            key
            for key, members in of_files.items()
            if any(matches(run, wanted) for run in members.values())
        ]
        if len(found) != 1:
            raise ConfigError(f"--baseline {baseline}: {len(found)} model files match: {fix}")
        return found[0]
    likely = {
        key: members[Kind.likelihood]
        for key, members in of_files.items()
        if Kind.likelihood in members
    }
    found = [key for key, run in likely.items() if KL not in run.metrics]
    if len(found) != 1:
        raise ConfigError(
            f"--files: {len(found)} of {len(likely)} likelihood jobs have no reference: {fix}"
        )
    ids = {
        run.facts.get("reference", "").rpartition(" · ")[2]
        for run in likely.values()
        if KL in run.metrics
    }
    others = {
        identifier for identifier in ids if re.fullmatch(r"likelihood-[0-9a-f]{12}", identifier)
    } - {likely[found[0]].job_id}
    if others:
        raise ConfigError(
            f"--files: KL was measured to other references, too: {few(sorted(others))}. Choose with --grid or --where"
        )
    return found[0]


def _two_jobs(run: Run, other: Run, kind: Kind, rules: KeyRules) -> str:
    differing = rules.differing_keys([run.params, other.params])
    difference = f", which differ in {', '.join(differing[:4])}" if differing else ""
    return (
        f"--files: {run.params.get('model.name')} has two jobs of {kind}, {other.job_id} and {run.job_id}{difference}: "
        "choose one with --grid, --where or --runs"
    )


# ---------------------------------------------------------------------------------- ranks and front


def rank_files(table: FileTable, reader: Reader) -> None:
    """Set the ranks of KL and the front; say why there is none."""
    files = [
        file
        for file in table.files
        if Kind.likelihood in file.rows and (file.is_reference or _kl(file) is not None)
    ]
    if len(files) < 3:
        table.why_no_ranks = "fewer than two files have a KL"
        return
    try:
        kls, sizes = divergences([file.rows[Kind.likelihood].run for file in files], reader)
    except NotPaired as reason:
        table.why_no_ranks = str(reason)
        return
    if len(sizes) < MIN_TEXTS:
        table.why_no_ranks = f"too few texts to test: {len(sizes)}, at least {MIN_TEXTS}"
        return
    closer = closer_pairs(kls, sizes)
    ranked = [index for index, file in enumerate(files) if not file.is_reference]
    for index in ranked:
        better = sum((other, index) in closer for other in ranked)
        worse = sum((index, other) in closer for other in ranked)
        files[index].kl_rank = 1 + better, len(ranked) - worse
        files[index].closer_than = [
            files[other].name for other in ranked if (index, other) in closer
        ]
    as_close = closer_pairs(kls, sizes, table.margin) if table.margin is not None else set()
    _mark_front(table, files, closer, as_close)


def divergences(runs: Sequence[Run], reader: Reader) -> tuple[list[list[float]], list[float]]:
    """Return each run's KL over each text, 0 for the reference, and the tokens of each text; a
    family is one text."""
    texts = [reader.texts(run) for run in runs]
    sides = [units([score.likelihood for score in side.values()]) for side in texts]
    if any(
        [(likelihood.unit, likelihood.tokens) for likelihood in side]
        != [(likelihood.unit, likelihood.tokens) for likelihood in sides[0]]
        for side in sides
    ):
        raise NotPaired("the files have not scored the same tokens")
    kls, sizes = (
        [[likelihood.kl_nats or 0.0 for likelihood in side] for side in sides],
        [float(likelihood.tokens) for likelihood in sides[0]],
    )
    clusters = text_clusters(texts[0], texts[-1], cluster_field(runs[0], runs[-1]))
    if clusters is None:
        return kls, sizes
    return [sums_by_cluster(side, clusters) for side in kls], sums_by_cluster(sizes, clusters)


def closer_pairs(
    kls: Sequence[Sequence[float]], sizes: Sequence[float], margin: float | None = None
) -> set[tuple[int, int]]:
    """Return the pairs of which the first is shown to be closer to the reference than the second.

    With a margin: the pairs of which the first is shown to be farther by less than the margin in
    nats a token.
    """
    ps: dict[tuple[int, int], float] = {}
    for first, second in (
        permutations(range(len(kls)), 2) if margin is not None else combinations(range(len(kls)), 2)
    ):
        shift = margin or 0.0
        gaps = [
            a - b - shift * size for a, b, size in zip(kls[first], kls[second], sizes, strict=True)
        ]
        is_ahead = ratio(gaps, sizes) < 0
        if margin is None:
            ps[(first, second) if is_ahead else (second, first)] = (
                paired_p(gaps, sizes) if any(gaps) else 1.0
            )
        else:
            ps[first, second] = paired_p(gaps, sizes) if is_ahead else 1.0
    adjusted = stats.holm([*ps.values()])
    return {pair for pair, p in zip(ps, adjusted, strict=True) if p < ALPHA}


def _mark_front(
    table: FileTable,
    files: list[FileRow],
    closer: set[tuple[int, int]],
    as_close: set[tuple[int, int]],
) -> None:
    """Mark the files that no other one dominates: with no more bytes, memory (and time), and a KL
    shown to be lower.

    With a margin also: with less of one of them, and a KL shown to be higher by less than the
    margin.
    """
    kinds = {name: kind for name in SIZES if (kind := table.kind_of(name)) is not None}
    axes = [(name, kind, -1, SIZES[name]) for name, kind in kinds.items()]
    if table.tolerance is not None:
        axes += [(name, Kind.speed, 1, table.tolerance) for name in table.speeds().values()]
    known = [
        index
        for index, file in enumerate(files)
        if all(file.metric(name, kind) is not None for name, kind, _, _ in axes)
    ]

    def gain(first: int, second: int, axis: tuple[str, Kind, int, float]) -> float:
        """Return by which share one is better on an axis, beyond the tolerance; 0 within it."""
        name, kind, sign, tolerance = axis
        value, other_value = (
            files[first].metric(name, kind) or 0.0,
            files[second].metric(name, kind) or 0.0,
        )
        share = value / other_value if sign > 0 else other_value / value
        return share - 1 if share > 1 + tolerance or share < 1 / (1 + tolerance) else 0.0

    def dominates(first: int, second: int) -> bool:
        gains = [gain(first, second, axis) for axis in axes]
        if first == second or min(gains, default=0.0) < 0:
            return False
        return (first, second) in closer or (
            (first, second) in as_close and max(gains, default=0.0) > 0
        )

    dominators = [
        [at for at, other in enumerate(known) if dominates(other, index)] for index in known
    ]
    for index, of_front in zip(known, dominators_among_front(dominators), strict=True):
        files[index].dominated_by = [files[known[at]].name for at in of_front]
        files[index].on_front = not of_front


def _kl(file: FileRow) -> float | None:
    return file.metric(KL, Kind.likelihood)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

"""--seeds: jobs that differ only in their seed are one row, whose intervals count questions and
seeds.

Another seed is another draw of answers and, in a team that learns, another graph. The row has the
mean over its seeds, and beside it how far the seeds are apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from runner_base import ConfigError, few
from runner_compare import metrics
from runner_compare.features.seeds.seed_tests import accuracies
from runner_compare.metrics import ACCURACY, BOUNDS, OF_QUESTION
from runner_compare.model.data import NotPaired, Run, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.statistics.over_seeds import guaranteed_over_seeds, share_over_seeds

SEED = "seed"
OPTION = "--seeds"
EDGES_COUNTED = tuple(
    f"{kind}_edges_{when}" for kind in ("spatial", "temporal") for when in ("before", "after")
)
EDGES = EDGES_COUNTED[1::2]


def without_seed(keys: Sequence[str]) -> list[str]:
    """Return the keys by which rows are told apart, where seeds are not."""
    return [key for key in keys if key != SEED]


def rows_over_seeds(runs: Sequence[Run], keys: Sequence[str], reader: Reader) -> list[Run]:
    """Return one run for all runs that agree in these keys, which leave out the seed; a single seed
    stays as it is."""
    groups: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.task_version, *(run.value(key) for key in keys)), []).append(run)
    return [_over_seeds(members, reader) if len(members) > 1 else members[0] for members in groups.values()]


def row_of(job: Run | None, runs: Sequence[Run]) -> Run | None:
    """Return the run that stands for a named job and its other seeds; None if none was named."""
    return None if job is None else next((run for run in runs if job in run.parts), job)


def _over_seeds(members: Sequence[Run], reader: Reader) -> Run:
    members = sorted(members, key=lambda run: (float(run.value(SEED) or 0), run.job_id))
    named = few([run.job_id for run in members], 3)
    seeds = [run.value(SEED) for run in members]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"runs of one configuration have the same seed ({named}): choose with --runs",
            key=OPTION,
            code="ambiguous",
        )
    if any(run.compared_while_running for run in members):
        raise ConfigError(
            f"some of {named} were compared while they ran, which holds for one seed only",
            key=OPTION,
            code="unsupported",
        )
    try:
        answers = [reader.of(run) for run in members]
    except NotPaired as reason:
        raise ConfigError(str(reason), key=OPTION, code="mismatch") from reason
    if any(of_seed.keys() != answers[0].keys() for of_seed in answers):
        counts = ", ".join(str(len(of_seed)) for of_seed in answers)
        raise ConfigError(
            f"{named} answered different questions ({counts}): choose one set with --where",
            key=OPTION,
            code="mismatch",
        )
    questions = sorted(answers[0])
    solved = [[of_seed[question].mean for question in questions] for of_seed in answers]
    clusters = [answers[0][question].cluster for question in questions]
    families = None if None in clusters else clusters
    interval = share_over_seeds(solved, families)
    whole = together(members)
    pooled = whole.metrics | dict(zip(ACCURACY, (fmean(map(fmean, solved)), *interval), strict=True))
    if any(outcome.cut_off for of_seed in answers for outcome in of_seed.values()):
        at_worst, at_best = (
            [[of_seed[question].if_cut_off(right).mean for question in questions] for of_seed in answers]
            for right in (False, True)
        )
        ends = (guaranteed_over_seeds(at_worst, families)[0], guaranteed_over_seeds(at_best, families)[1])
        pooled |= dict(
            zip(BOUNDS, (fmean(map(fmean, at_worst)), fmean(map(fmean, at_best)), *ends), strict=True)
        )
    pooled |= {key: fmean(run.metrics[key] for run in members) for key in EDGES_COUNTED if key in pooled}
    return replace(whole, metrics=pooled, facts={}, over_seeds=True, earlier=[])


def together(members: list[Run]) -> Run:
    """Return one run for several, with what they share and their metrics pooled."""
    return replace(
        members[0],
        run_id="+".join(run.run_id for run in members),
        job_id="+".join(run.job_id for run in members),
        folder=", ".join(run.folder for run in members),
        params=shared_values([run.params for run in members]),
        metrics=metrics.pool(run.metrics for run in members),
        parts=members,
    )


def shared_values(configs: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {
        key: value for key, value in configs[0].items() if all(config.get(key) == value for config in configs)
    }


def rows_with_seeds(table: Table) -> list[TableRow]:
    """Return the rows that stand for several seeds."""
    return [row for row in table.rows if row.run.over_seeds]


def check_seeds(tables: Sequence[Table]) -> None:
    """Raise ConfigError if no row of any table stands for several seeds."""
    if not any(map(rows_with_seeds, tables)):
        raise ConfigError(
            "no two of these runs differ only in their seed: run a grid with seed=0,1,2 -m",
            key=OPTION,
            code="empty",
        )


@dataclass(frozen=True)
class Spread:
    """How far the values of several seeds are apart."""

    mean: float
    deviation: float  # the standard deviation of the seeds' values
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Compute it from one value for each of at least two seeds."""
        return cls(fmean(values), stdev(values), min(values), max(values))


def spreads(run: Run) -> dict[str, Spread]:
    """Return how far the seeds are apart in accuracy, in tokens a question and in edges, as far as
    these are known."""
    found = {"accuracy": Spread.of(accuracies(run))}
    if all(part.metrics.keys() >= set(OF_QUESTION) for part in run.parts):
        found["tokens_a_question"] = Spread.of(
            [sum(part.metrics[key] for key in OF_QUESTION) for part in run.parts]
        )
    for key in EDGES:
        if all(key in part.metrics for part in run.parts):
            found[key] = Spread.of([part.metrics[key] for part in run.parts])
    return found

"""Combines jobs that differ only in their seed into one run (--seeds).

Intervals then cover questions and seeds. Another seed gives other answers and, in a team
that learns, another graph. The pooled row has the mean over its seeds, and the spread
between seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from runner_base import ConfigError, join_first_names
from runner_compare import metrics
from runner_compare.features.seeds.seed_tests import compute_seed_accuracies
from runner_compare.metrics import ACCURACY, BOUNDS, OF_QUESTION
from runner_compare.model.data import NotPaired, Run, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.statistics.seed_means import (
    compute_accuracy_interval_over_seeds,
    compute_exact_interval_over_seeds,
)

SEED = "seed"
OPTION = "--seeds"
EDGES_COUNTED = tuple(
    f"{kind}_edges_{when}" for kind in ("spatial", "temporal") for when in ("before", "after")
)
EDGES = EDGES_COUNTED[1::2]


def remove_seed_key(keys: Sequence[str]) -> list[str]:
    """Return the config keys that distinguish table rows, without the key of the seed."""
    return [key for key in keys if key != SEED]


def pool_runs_over_seeds(runs: Sequence[Run], keys: Sequence[str], reader: Reader) -> list[Run]:
    """Combine runs with equal values of `keys` into one run. Other runs are returned unchanged."""
    groups: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.task_version, *(run.get_value(key) for key in keys)), []).append(run)
    return [
        _combine_seed_runs(members, reader) if len(members) > 1 else members[0] for members in groups.values()
    ]


def find_pooled_run(job: Run | None, runs: Sequence[Run]) -> Run | None:
    return None if job is None else next((run for run in runs if job in run.parts), job)


def _combine_seed_runs(members: Sequence[Run], reader: Reader) -> Run:
    members = sorted(members, key=lambda run: (float(run.get_value(SEED) or 0), run.job_id))
    named = join_first_names([run.job_id for run in members], 3)
    seeds = [run.get_value(SEED) for run in members]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"several runs with equal configs have the same seed ({named}). Select one with --runs",
            key=OPTION,
            code="ambiguous",
        )
    if any(run.compared_while_running for run in members):
        raise ConfigError(
            f"{named} include runs with early stopping, whose test is valid only for a single seed",
            key=OPTION,
            code="unsupported",
        )
    try:
        answers = [reader.load_answers(run) for run in members]
    except NotPaired as reason:
        raise ConfigError(str(reason), key=OPTION, code="mismatch") from reason
    if any(of_seed.keys() != answers[0].keys() for of_seed in answers):
        counts = ", ".join(str(len(of_seed)) for of_seed in answers)
        raise ConfigError(
            f"{named} answered different questions ({counts}). Select runs with --where",
            key=OPTION,
            code="mismatch",
        )
    questions = sorted(answers[0])
    solved = [[of_seed[question].accuracy for question in questions] for of_seed in answers]
    clusters = [answers[0][question].cluster for question in questions]
    families = None if None in clusters else clusters
    interval = compute_accuracy_interval_over_seeds(solved, families)
    whole = merge_runs(members)
    pooled = whole.metrics | dict(zip(ACCURACY, (fmean(map(fmean, solved)), *interval), strict=True))
    if any(outcome.cut_off for of_seed in answers for outcome in of_seed.values()):
        at_worst, at_best = (
            [
                [of_seed[question].treat_cut_off_answers_as(right).accuracy for question in questions]
                for of_seed in answers
            ]
            for right in (False, True)
        )
        ends = (
            compute_exact_interval_over_seeds(at_worst, families)[0],
            compute_exact_interval_over_seeds(at_best, families)[1],
        )
        pooled |= dict(
            zip(BOUNDS, (fmean(map(fmean, at_worst)), fmean(map(fmean, at_best)), *ends), strict=True)
        )
    pooled |= {key: fmean(run.metrics[key] for run in members) for key in EDGES_COUNTED if key in pooled}
    return replace(whole, metrics=pooled, facts={}, over_seeds=True, earlier=[])


def merge_runs(members: list[Run]) -> Run:
    return replace(
        members[0],
        run_id="+".join(run.run_id for run in members),
        job_id="+".join(run.job_id for run in members),
        folder=", ".join(run.folder for run in members),
        params=common_params([run.params for run in members]),
        metrics=metrics.pool_metrics(run.metrics for run in members),
        parts=members,
    )


def common_params(configs: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {
        key: value for key, value in configs[0].items() if all(config.get(key) == value for config in configs)
    }


def rows_with_seeds(table: Table) -> list[TableRow]:
    return [row for row in table.rows if row.run.over_seeds]


def require_pooled_seeds(tables: Sequence[Table]) -> None:
    """Raise ConfigError if no table row combines several seeds."""
    if not any(map(rows_with_seeds, tables)):
        raise ConfigError(
            "no two of these runs differ only in their seed. Run a grid over seeds, e.g. seed=0,1,2 -m",
            key=OPTION,
            code="empty",
        )


@dataclass(frozen=True)
class SeedSpread:
    """Mean, standard deviation and range of one metric over several seeds."""

    mean: float
    deviation: float  # the standard deviation of the seeds' values
    least: float
    most: float

    @classmethod
    def from_values(cls, values: Sequence[float]) -> SeedSpread:
        return cls(fmean(values), stdev(values), min(values), max(values))


def compute_seed_spreads(run: Run) -> dict[str, SeedSpread]:
    """Return how accuracy, tokens per question and graph edges vary between the seeds of a run."""
    found = {"accuracy": SeedSpread.from_values(compute_seed_accuracies(run))}
    if all(part.metrics.keys() >= set(OF_QUESTION) for part in run.parts):
        found["tokens_a_question"] = SeedSpread.from_values(
            [sum(part.metrics[key] for key in OF_QUESTION) for part in run.parts]
        )
    for key in EDGES:
        if all(key in part.metrics for part in run.parts):
            found[key] = SeedSpread.from_values([part.metrics[key] for part in run.parts])
    return found

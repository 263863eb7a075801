"""The Pareto front of accuracy, memory and speed: a row is dominated only if the difference is beyond noise.

One row dominates another if it is as accurate, is not worse beyond noise in memory and speed, and is better beyond
noise in one of the three. "No difference shown" does not make it as accurate: with few questions no difference is
shown between any two rows, and the cheapest row would dominate all. A row counts as as accurate if its measured share
of right answers is as large, or if the interval of the difference includes 0 and excludes a loss that matters.

The front consists of the rows that no row of the front dominates. "Within noise" is not transitive (each of three rows
may be a bit slower than the one before), so a row could otherwise be dominated by one that is itself dominated. If rows
dominate one another in a circle, all of them stay on the front.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from statistics import fmean, variance

from runner.compare.data import NotPaired, Question, Run, Standing, Table, TableRow
from runner.compare.runs import SampleReader
from runner.core import stats
from runner.core.machine import EXCLUSIVE
from runner.core.metrics import ACCURACY, FRONT, METRICS, Better

MEMORY, SPEED = FRONT
LEVEL = 0.005  # of each of the two tests over all pairs: a reader no longer looks at a dominated row
SPEED_TOLERANCE = 0.20  # of one run each; bench/front_null.py shows for how much noise that is enough
MEMORY_TOLERANCE = 0.02  # memory is computed, not measured: only longer or shorter answers change it
ACCURACY_MARGIN = 0.05  # the smallest loss that matters when a row is cheaper
LEAST_DEGREES_OF_FREEDOM = 4  # degrees of freedom that the spread of repeats needs as an estimate of noise
MOST_REPEATS = 20  # the latest ones of a job count


def mark_front(table: Table, reader: SampleReader | None = None, tolerance: float = SPEED_TOLERANCE) -> None:
    """Mark the rows on the Pareto front, and for each other row the one that dominates it and in which axes.

    Rows that were measured beside other work, or on another machine, are left out. Without reader, accuracies are
    compared by their counts alone.
    """
    scored = [row for row in table.rows if row.run.interval]
    if len(scored) < 2:
        return
    _leave_out(scored)
    rows = [row for row in scored if not row.off_front]
    table.axes = [name for name in FRONT if all(name in row.run.metrics for row in rows)] if len(rows) > 1 else []
    if not table.axes:
        return
    if MEMORY not in table.axes:
        table.without_memory = [row.run.job_id for row in rows if MEMORY not in row.run.metrics]
    panels = [[row for row in rows if row.panel == panel] for panel in dict.fromkeys(row.panel for row in rows)]
    table.front_pairs = sum(math.comb(len(members), 2) for members in panels)
    set_standings(table, rows, tolerance)
    for members in panels:
        _mark(members, Dominance(table, reader))


def set_standings(table: Table, rows: list[TableRow], tolerance: float) -> None:
    """Set each row's value and range of noise on each axis; two rows differ if their ranges do not touch.

    If jobs were run several times, the spread of their speeds estimates the noise: Student's interval for the
    difference of two means of logarithms, with one standard deviation for all rows and Bonferroni's correction for all
    pairs. Otherwise the tolerance is used. A range extends half of the smallest significant difference to either side.
    """
    for axis in table.axes:
        values = [values_of(row.run, axis) if axis == SPEED else [row.run.metrics[axis]] for row in rows]
        repeated = [repeats for repeats in values if len(repeats) > 1]
        freedom = sum(len(repeats) - 1 for repeats in repeated)
        percent = MEMORY_TOLERANCE if axis == MEMORY else tolerance
        words = "" if axis == MEMORY else ", of one run each,"
        halves = [math.log1p(percent) / 2] * len(rows)
        if freedom >= LEAST_DEGREES_OF_FREEDOM:
            logs = [[math.log(value) for value in repeats] for repeats in repeated]
            spread = math.sqrt(sum(variance(repeats) * (len(repeats) - 1) for repeats in logs) / freedom)
            reach = stats.student_quantile(LEVEL / table.front_pairs, freedom) * spread
            halves = [reach / math.sqrt(2 * len(repeats)) for repeats in values]
            percent = math.expm1(2 * min(halves))
            words = f", by the spread of {freedom + len(repeated)} runs of {len(repeated)} jobs,"
        table.noise[axis] = f"{100 * percent:.3g} %{words}"
        for row, repeats, half in zip(rows, values, halves, strict=True):
            middle = math.exp(fmean(map(math.log, repeats))) if len(repeats) > 1 else repeats[0]
            row.standing[axis] = Standing(middle, middle * math.exp(-half), middle * math.exp(half), len(repeats))


def values_of(run: Run, axis: str) -> list[float]:
    """Return the run's value, and those of earlier runs of the same job alone on the same machine."""
    newest = run.metrics[axis]
    earlier = [
        one.metrics[axis]
        for one in run.earlier
        if one.task_version == run.task_version and _contention(one) == EXCLUSIVE and _machine(one) == _machine(run)
        if one.metrics.get(axis, 0.0) > 0
    ]
    return [newest, *earlier[: MOST_REPEATS - 1]] if newest > 0 else [newest]


@dataclass(eq=False)
class Place:
    """A row as it is compared with others: its range on each axis, with the sign changed if lower is better."""

    row: TableRow
    correct: int
    n: int
    bounds: list[tuple[float, float]]

    @classmethod
    def of(cls, row: TableRow, axes: list[str]) -> Place:
        """Return a row's ranges."""
        ranges = [(row.standing[axis], METRICS[axis].better is Better.higher) for axis in axes]
        bounds = [(it.low, it.high) if higher_is_better else (-it.high, -it.low) for it, higher_is_better in ranges]
        return cls(row, *(row.run.score or (0, 1)), bounds)


class Dominance:
    """Decides in which axes one row is better than another beyond noise."""

    def __init__(self, table: Table, reader: SampleReader | None) -> None:
        self.axes, self.pairs, self.reader = table.axes, table.front_pairs, reader
        self._solved: dict[str, tuple[int, int] | None] = {}
        self._sets: dict[tuple[Question, ...], int] = {}

    def dominates(self, one: Place, other: Place) -> bool:
        """Whether one row is worse nowhere and better somewhere."""
        is_better = False
        for (low, high), (their_low, their_high) in zip(one.bounds, other.bounds, strict=True):
            if high < their_low:
                return False
            is_better = is_better or low > their_high
        return self.is_as_accurate(one, other) if is_better else self.solves_more(one, other)

    def better_in(self, one: Place, other: Place) -> list[str]:
        """Return the axes in which a dominating row is better than the dominated one."""
        pairs = zip(self.axes, one.bounds, other.bounds, strict=True)
        cheaper = [axis for axis, (low, _), (_, their_high) in pairs if low > their_high]
        return [ACCURACY[0]] * self.solves_more(one, other) + cheaper

    def is_as_accurate(self, one: Place, other: Place) -> bool:
        """Whether one row's measured share is as large, or the interval excludes a loss that matters."""
        loss = other.correct / other.n - one.correct / one.n
        if loss <= 0 or loss >= ACCURACY_MARGIN:
            return loss <= 0
        pair = self._flips(one.row.run, other.row.run)
        low, high = (
            _unpaired_interval(one.correct, one.n, other.correct, other.n)
            if pair is None
            else _paired_interval(*pair, one.n)
        )
        return low > -ACCURACY_MARGIN and high >= 0

    def solves_more(self, one: Place, other: Place) -> bool:
        """Whether one row solves more than another, by the exact test and Bonferroni's correction for all pairs."""
        if one.correct * other.n <= other.correct * one.n:
            return False
        if one.n == other.n and 2.0 ** (1 + other.correct - one.correct) * self.pairs >= LEVEL:
            return False  # not significant even if every differing question was won
        pair = self._flips(one.row.run, other.row.run)
        p = _fisher(one.correct, one.n, other.correct, other.n) if pair is None else _mcnemar(*pair)
        return p * self.pairs < LEVEL

    def _flips(self, one: Run, other: Run) -> tuple[int, int] | None:
        """Return how many questions only one and only the other solved; None for different questions."""
        ours, theirs = self._answers(one), self._answers(other)
        if ours is None or theirs is None or ours[0] != theirs[0]:
            return None
        return (ours[1] & ~theirs[1]).bit_count(), (theirs[1] & ~ours[1]).bit_count()

    def _answers(self, run: Run) -> tuple[int, int] | None:
        """Return the number of a run's set of questions and, as bits, which it solved; None if samples are missing."""
        if self.reader is None:
            return None
        if run.run_id not in self._solved:
            try:
                answers = self.reader.of(run)
            except NotPaired:
                self._solved[run.run_id] = None
            else:
                questions = sorted(answers)
                bits = "".join("01"[answers[question].solved] for question in questions)
                self._solved[run.run_id] = self._sets.setdefault(tuple(questions), len(self._sets)), int(bits or "0", 2)
        return self._solved[run.run_id]


# among many rows the same counts occur often
_paired_interval = cache(stats.paired_difference_interval)
_unpaired_interval = cache(stats.unpaired_difference_interval)
_mcnemar, _fisher = cache(stats.mcnemar_exact), cache(stats.fisher_exact)


def _mark(rows: list[TableRow], dominance: Dominance) -> None:
    """Mark the rows of one set of questions: the front, then the rows it dominates, then the front of the rest."""
    places = [Place.of(row, dominance.axes) for row in rows]
    dominators = [
        [index for index, it in enumerate(places) if it is not place and dominance.dominates(it, place)]
        for place in places
    ]
    remaining = set(range(len(rows)))
    while remaining:
        front = {index for index in remaining if remaining.isdisjoint(dominators[index])} or remaining
        remaining = remaining - front
        for index in front:
            rows[index].on_front = True
        for index in sorted(remaining):
            if dominators_on_front := [it for it in dominators[index] if it in front]:
                strongest = max(dominators_on_front, key=lambda it: places[it].correct / places[it].n)
                rows[index].on_front, rows[index].dominated_by = False, rows[strongest].run.job_id
                rows[index].dominated_in = dominance.better_in(places[strongest], places[index])
        remaining = {index for index in remaining if rows[index].on_front is None}


def _leave_out(rows: list[TableRow]) -> None:
    """Note which rows were measured beside other work, or on another machine than the baseline (else than most)."""
    for row in rows:
        contention = _contention(row.run)
        row.off_front = None if contention == EXCLUSIVE else f"measured {contention}"
    alone = sorted((row for row in rows if not row.off_front), key=lambda row: not row.is_baseline)
    machines = [_machine(row.run) for row in alone]
    usual = machines[0] if alone and alone[0].is_baseline else max(machines, key=machines.count, default="")
    for row, machine in zip(alone, machines, strict=True):
        if machine != usual:
            row.off_front = f"measured on another machine: {machine}"


def _contention(run: Run) -> str:
    """Return what a run, or one of the pooled runs, was measured beside."""
    measured = [part.facts.get("measured", EXCLUSIVE) for part in run.parts or [run]]
    return next((words for words in measured if words != EXCLUSIVE), EXCLUSIVE)


def _machine(run: Run) -> str:
    """Return the machines of a run or of the pooled runs."""
    return " and ".join(sorted({part.facts.get("machine", "an unknown one") for part in run.parts or [run]}))

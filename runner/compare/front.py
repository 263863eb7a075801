"""The Pareto front of accuracy, memory and speed: a row is dominated only where the difference is beyond noise.

One row dominates another where it is as accurate, is not worse beyond noise in memory and speed, and is better beyond
noise in one of the three. "No difference shown" does not make it as accurate: few questions show no difference between
anything, and the cheapest row would dominate all. It takes as large a share of right answers as measured, or an
interval of the difference that includes 0 and leaves out a loss that matters.

On the front is what no row of the front dominates. "Within noise" does not carry over from pair to pair (each of three
rows may be a bit slower than the one before), and a row could else fall to one that has itself fallen. Should rows
dominate one another in a circle, all of them stay.
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
LEVEL = 0.005  # of each of the two tests over all pairs: a row that falls is out of the reader's sight
SPEED_TOLERANCE = 0.20  # of one run each; bench/front_null.py says for how much noise that is enough
MEMORY_TOLERANCE = 0.02  # counted and not measured: only longer or shorter answers change it
ACCURACY_MARGIN = 0.05  # the least loss that matters where a row is cheaper
LEAST_FREEDOM = 4  # degrees of freedom that repeats must leave before their spread says what noise is
MOST_REPEATS = 20  # the latest ones of a job


def mark_front(table: Table, reader: SampleReader | None = None, tolerance: float = SPEED_TOLERANCE) -> None:
    """Mark the rows on the Pareto front, and for each other row the one that dominates it and in what.

    What was measured beside other work, or on another machine, is no value to dominate by. Without reader, accuracies
    are compared by their counts alone.
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
    stand(table, rows, tolerance)
    for members in panels:
        _mark(members, Dominance(table, reader))


def stand(table: Table, rows: list[TableRow], tolerance: float) -> None:
    """Say where each row stands on each axis, and how far noise may have moved it: two differ where these do not touch.

    Where jobs were run several times, the spread of their speeds says what noise is: Student's interval for the
    difference of two means of logarithms, with one standard deviation for all rows and Bonferroni's correction for all
    pairs. Else it is the stated tolerance. Half of the difference that counts stands on either side.
    """
    for axis in table.axes:
        values = [values_of(row.run, axis) if axis == SPEED else [row.run.metrics[axis]] for row in rows]
        repeated = [some for some in values if len(some) > 1]
        freedom = sum(len(some) - 1 for some in repeated)
        percent = MEMORY_TOLERANCE if axis == MEMORY else tolerance
        words = "" if axis == MEMORY else ", of one run each,"
        halves = [math.log1p(percent) / 2] * len(rows)
        if freedom >= LEAST_FREEDOM:
            logs = [[math.log(value) for value in some] for some in repeated]
            spread = math.sqrt(sum(variance(some) * (len(some) - 1) for some in logs) / freedom)
            reach = stats.student_quantile(LEVEL / table.front_pairs, freedom) * spread
            halves = [reach / math.sqrt(2 * len(some)) for some in values]
            percent = math.expm1(2 * min(halves))
            words = f", by the spread of {freedom + len(repeated)} runs of {len(repeated)} jobs,"
        table.noise[axis] = f"{100 * percent:.3g} %{words}"
        for row, some, half in zip(rows, values, halves, strict=True):
            middle = math.exp(fmean(map(math.log, some))) if len(some) > 1 else some[0]
            row.standing[axis] = Standing(middle, middle * math.exp(-half), middle * math.exp(half), len(some))


def values_of(run: Run, axis: str) -> list[float]:
    """Return what a run measured, and earlier runs of the same job by themselves on the same machine."""
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
    """A row as it is compared with others: between what it stands on each axis, the larger the better."""

    row: TableRow
    correct: int
    n: int
    bounds: list[tuple[float, float]]

    @classmethod
    def of(cls, row: TableRow, axes: list[str]) -> Place:
        """Return where a row stands."""
        stands = [(row.standing[axis], METRICS[axis].better is Better.higher) for axis in axes]
        bounds = [(it.low, it.high) if more else (-it.high, -it.low) for it, more in stands]
        return cls(row, *(row.run.score or (0, 1)), bounds)


class Dominance:
    """Says in what one row is better than another beyond noise."""

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
        """Return all axes in which a row that dominates another is better than that one."""
        pairs = zip(self.axes, one.bounds, other.bounds, strict=True)
        cheaper = [axis for axis, (low, _), (_, their_high) in pairs if low > their_high]
        return [ACCURACY[0]] * self.solves_more(one, other) + cheaper

    def is_as_accurate(self, one: Place, other: Place) -> bool:
        """Whether one row solves as large a share as measured, or the interval leaves no loss that matters."""
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
            return False  # even if every question that came out otherwise was won
        pair = self._flips(one.row.run, other.row.run)
        p = _fisher(one.correct, one.n, other.correct, other.n) if pair is None else _mcnemar(*pair)
        return p * self.pairs < LEVEL

    def _flips(self, one: Run, other: Run) -> tuple[int, int] | None:
        """Return how many questions only the one and only the other solved; None where they were not the same."""
        ours, theirs = self._answers(one), self._answers(other)
        if ours is None or theirs is None or ours[0] != theirs[0]:
            return None
        return (ours[1] & ~theirs[1]).bit_count(), (theirs[1] & ~ours[1]).bit_count()

    def _answers(self, run: Run) -> tuple[int, int] | None:
        """Return which set of questions a run was asked and, as bits, which it solved; None where nothing says so."""
        if self.reader is None:
            return None
        if run.run_id not in self._solved:
            try:
                answers = self.reader.of(run)
            except NotPaired:
                self._solved[run.run_id] = None
            else:
                asked = sorted(answers)
                bits = "".join("01"[answers[question].solved] for question in asked)
                self._solved[run.run_id] = self._sets.setdefault(tuple(asked), len(self._sets)), int(bits or "0", 2)
        return self._solved[run.run_id]


# among many rows the same counts come often
_paired_interval = cache(stats.paired_difference_interval)
_unpaired_interval = cache(stats.unpaired_difference_interval)
_mcnemar, _fisher = cache(stats.mcnemar_exact), cache(stats.fisher_exact)


def _mark(rows: list[TableRow], dominance: Dominance) -> None:
    """Mark the rows of one set of questions: the front, then what it dominates, then the front of the rest."""
    places = [Place.of(row, dominance.axes) for row in rows]
    above = [
        [at for at, it in enumerate(places) if it is not place and dominance.dominates(it, place)] for place in places
    ]
    left = set(range(len(rows)))
    while left:
        best = {at for at in left if left.isdisjoint(above[at])} or left
        left = left - best
        for at in best:
            rows[at].on_front = True
        for at in sorted(left):
            if found := [it for it in above[at] if it in best]:
                strongest = max(found, key=lambda it: places[it].correct / places[it].n)
                rows[at].on_front, rows[at].dominated_by = False, rows[strongest].run.job_id
                rows[at].dominated_in = dominance.better_in(places[strongest], places[at])
        left = {at for at in left if rows[at].on_front is None}


def _leave_out(rows: list[TableRow]) -> None:
    """Note which rows were not measured alone, or on another machine than the baseline, else than most."""
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
    """Return what a run, or any of what is put together, was measured beside."""
    measured = [part.facts.get("measured", EXCLUSIVE) for part in run.parts or [run]]
    return next((words for words in measured if words != EXCLUSIVE), EXCLUSIVE)


def _machine(run: Run) -> str:
    """Return what a run, or what is put together, was measured on."""
    return " and ".join(sorted({part.facts.get("machine", "one that is not known") for part in run.parts or [run]}))

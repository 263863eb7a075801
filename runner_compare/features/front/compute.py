"""Pareto front of accuracy, memory, speed and energy, with dominance decided by statistical tests.

One run dominates another if it is shown to be as good within a margin in accuracy, memory,
speed and energy, is not shown to be worse in any of them, and is better beyond noise in
one. An equal or higher observed accuracy does not show that a run is as accurate: a truly
worse one often has as many correct answers.

The front consists of the runs that no run of the front dominates. "As good within a margin"
is not transitive (each of three runs may be a bit slower than the one before), so a run
could otherwise be dominated by one that is itself dominated. If runs dominate one another
in a circle, all of them stay on the front.

Speed and energy count if their noise is known: from several runs of each job, or given by
the user. Energy is per question, not per correct answer: otherwise accuracy would count
twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, variance

from runner_base.machine import EXCLUSIVE
from runner_base.notes import note
from runner_compare.features.front.accuracy import AccuracyComparer
from runner_compare.metrics import ACCURACY, BetterDirection, find_metric
from runner_compare.model.data import AxisValue, Run, Table, TableRow
from runner_compare.model.repeated_runs import (
    describe_contention,
    join_machine_names,
    list_repeated_metric_values,
)
from runner_compare.reader import Reader
from runner_compare.statistics import ALPHA, MIN_RUNS, RATIOS, stats
from runner_compare.statistics.run_ratios import RunRatio, compute_min_runs_per_job
from runner_compare.statistics.sequential import Side

# The axes of the Pareto front besides the accuracy, and their names there.
FRONT = {"model_mib": "memory", "decode_tok_per_s": "speed", "joules_per_question": "energy"}
MEMORY, SPEED, ENERGY = FRONT
MEASURED = SPEED, ENERGY  # they differ from run to run
FEWEST_ROWS = 2
# memory is computed, not measured: only longer or shorter answers change it
MEMORY_TOLERANCE = 0.02
# the smallest losses that matter, unless --margin says otherwise; that of speed is energy's, too
ACCURACY_MARGIN, SPEED_MARGIN = 0.02, 0.10


@dataclass(frozen=True)
class AxisNoise:
    """Noise level of a Pareto-front metric. Smaller differences are ignored."""

    share: float | None  # up to which they are; None: those that Student's t over runs does not show
    is_given: bool = False  # whether the user has said so
    runs: tuple[int, int] = (1, 1)  # of a job, at least and at most


@dataclass
class FrontData:
    """Metrics of a table's Pareto front, with their noise levels and margins."""

    # its metrics besides accuracy; none: there is no front
    axes: list[str] = field(default_factory=list)
    noise: dict[str, AxisNoise] = field(default_factory=dict)  # by axis
    # of accuracy and what is measured: the loss that may not matter
    margins: dict[str, float] = field(default_factory=dict)
    pairs: int = 0  # the number of pairs of rows that it compares
    # of "better" over all pairs, in each axis that has noise: accuracy, speed and energy
    level: float = ALPHA / 2
    # of pairs compared while one ran: how many shared 5 %
    shares: list[int] = field(default_factory=list)
    runs: int = 0  # how many runs of each job can show a difference of speed
    # of memory and energy, where they are no axis: the jobs that lack the metric
    lacking: dict[str, list[str]] = field(default_factory=dict)
    # of speed and energy: the jobs with too few runs to know their noise
    too_few_runs: dict[str, list[str]] = field(default_factory=dict)


def mark_pareto_front(
    table: Table,
    reader: Reader | None = None,
    tolerance: float | None = None,
    margins: Mapping[str, float] | None = None,
) -> None:
    """Mark the rows on the Pareto front.

    Each other row gets one row that dominates it, and the axes on which that row is better.
    Runs that were measured under other load, or on another machine, are excluded. Without a
    reader, accuracies are compared by their counts alone. `tolerance`: the relative difference
    of speed and energy that is noise, if the user gave it.
    """
    scored = [row for row in table.rows if row.run.accuracy_interval]
    if len(scored) < FEWEST_ROWS:
        return
    _mark_rows_off_pareto_front(scored)
    rows = [row for row in scored if not row.off_front]
    if len(rows) < FEWEST_ROWS:
        return
    panels = [
        [row for row in rows if row.panel == panel] for panel in dict.fromkeys(row.panel for row in rows)
    ]
    front = table.get_section_data(FrontData)
    front.pairs = sum(math.comb(len(members), 2) for members in panels)
    _choose_pareto_metrics(front, [row.run for row in rows], tolerance is not None)
    front.runs = compute_min_runs_per_job(front.level / max(1, front.pairs))
    if not front.axes:
        return
    given = margins or {}
    front.margins = {"accuracy": given.get("accuracy", ACCURACY_MARGIN)}
    front.margins |= dict.fromkeys(MEASURED, given.get(RATIOS, SPEED_MARGIN))
    values = {
        axis: {row.run.run_id: list_repeated_metric_values(row.run, axis) for row in rows}
        for axis in MEASURED
        if axis in front.axes
    }
    set_pareto_values_and_intervals(table, rows, values, tolerance)
    dominance = Dominance(table, reader, values, tolerance)
    for members in panels:
        _mark_pareto_front_rows(members, dominance)
    front.shares = sorted(dominance.shares.values())


def _choose_pareto_metrics(front: FrontData, runs: Sequence[Run], has_tolerance: bool) -> None:
    """Choose the Pareto-front metrics: those that all runs have and whose noise level is known."""
    lacking = {axis: [run.job_id for run in runs if not run.metrics.get(axis, 0.0) > 0] for axis in FRONT}
    measured = [axis for axis in FRONT if not lacking[axis]]
    if measured and lacking[MEMORY]:
        front.lacking[MEMORY] = lacking[MEMORY]
    if 0 < len(lacking[ENERGY]) < len(runs):  # few machines have a counter: most tables lack it
        front.lacking[ENERGY] = lacking[ENERGY]
    for axis in MEASURED if not has_tolerance else ():
        too_few = [run.job_id for run in runs if len(list_repeated_metric_values(run, axis)) < MIN_RUNS]
        if axis in measured and too_few:
            front.too_few_runs[axis] = too_few
    front.axes = [axis for axis in measured if axis not in front.too_few_runs]
    front.level = ALPHA / (3 if ENERGY in front.axes else 2)


def set_pareto_values_and_intervals(
    table: Table,
    rows: list[TableRow],
    values: Mapping[str, Mapping[str, list[float]]],
    tolerance: float | None,
) -> None:
    """Set each row's value of each Pareto-front metric, with an interval over repeated runs.

    Without several runs, the interval is half of the tolerance in each direction.
    """
    front = table.get_section_data(FrontData)
    for axis in front.axes:
        percent = MEMORY_TOLERANCE if axis == MEMORY else tolerance
        for row in rows:
            logs = [math.log(value) for value in values.get(axis, {}).get(row.run.run_id, [])]
            middle = math.exp(fmean(logs)) if len(logs) > 1 else row.run.metrics[axis]
            half = (
                stats.compute_student_quantile(ALPHA, len(logs) - 1) * math.sqrt(variance(logs) / len(logs))
                if percent is None
                else math.log1p(percent) / 2
            )
            row.standing[axis] = AxisValue(
                middle, middle * math.exp(-half), middle * math.exp(half), max(1, len(logs))
            )
        if percent is not None:
            front.noise[axis] = AxisNoise(percent, axis in MEASURED)
        else:
            counts = [row.standing[axis].runs for row in rows]
            front.noise[axis] = AxisNoise(None, runs=(min(counts), max(counts)))


@dataclass(frozen=True)
class AxisRelation:
    """Result of comparing two rows on one metric: whether the first is better, and whether it is as good."""

    is_better: bool
    is_as_good: bool
    difference: float = 0.0  # of two accuracies


class Dominance:
    """Compares two table rows on each metric of the Pareto front.

    A row is better if the difference exceeds the noise. It is as good if the loss is within the
    margin.
    """

    def __init__(
        self,
        table: Table,
        reader: Reader | None,
        values: Mapping[str, Mapping[str, list[float]]],
        tolerance: float | None,
    ) -> None:
        front = table.get_section_data(FrontData)
        self.axes, self.pairs, self.level = front.axes, front.pairs, front.level
        self.margins, self.values, self.tolerance = front.margins, values, tolerance
        self.accuracies = AccuracyComparer(reader, table.keys)
        # of pairs compared while one ran: how many shared the 5 %
        self.shares: dict[frozenset[str], int] = {}
        self._accuracies: dict[tuple[str, str], AxisRelation] = {}

    def is_dominating(self, row: TableRow, other_row: TableRow) -> bool:
        """Whether a row is as good as another in every metric and better in at least one."""
        relations = []
        for axis in self.axes:  # accuracies last: they take longest
            relations.append(self.compare_on_pareto_axis(row, other_row, axis))
            if not relations[-1].is_as_good:
                return False
        accuracy = self.compare_accuracy(row, other_row)
        return accuracy.is_as_good and any(relation.is_better for relation in (*relations, accuracy))

    def list_better_axes(self, row: TableRow, other_row: TableRow) -> list[str]:
        better = [axis for axis in self.axes if self.compare_on_pareto_axis(row, other_row, axis).is_better]
        return [ACCURACY[0]] * self.compare_accuracy(row, other_row).is_better + better

    def compare_on_pareto_axis(self, row: TableRow, other_row: TableRow, axis: str) -> AxisRelation:
        """Compare memory, speed or energy of two rows."""
        gain = math.log(row.standing[axis].value / other_row.standing[axis].value)
        is_higher_better = find_metric(axis).better is BetterDirection.higher
        gain = gain if is_higher_better else -gain
        noise = MEMORY_TOLERANCE if axis == MEMORY else self.tolerance
        if noise is not None:
            return AxisRelation(gain > math.log1p(noise), gain >= -math.log1p(noise))
        pair = (row, other_row) if is_higher_better else (other_row, row)
        better_first = RunRatio.from_run_values(*(self.values[axis][side.run.run_id] for side in pair))
        p, limit = better_first.compute_p_value_against(1.0), 1 / (1 + self.margins[axis])
        is_better = gain > 0 and p * self.pairs < self.level
        is_within = (
            better_first.ratio > limit and better_first.compute_p_value_against(limit) * self.pairs < ALPHA
        )
        return AxisRelation(is_better, is_better or (is_within and not (gain < 0 and p < ALPHA)))

    def compare_accuracy(self, row: TableRow, other_row: TableRow) -> AxisRelation:
        pair = row.run.run_id, other_row.run.run_id
        if pair not in self._accuracies:
            self._accuracies[pair] = self._compute_accuracy_relation(row.run, other_row.run)
        return self._accuracies[pair]

    def _compute_accuracy_relation(self, run: Run, other_run: Run) -> AxisRelation:
        margin = self.margins["accuracy"]
        (correct, n), (their_correct, their_n) = (
            run.correct_and_total or (0, 1),
            other_run.correct_and_total or (0, 1),
        )
        is_plain = self.accuracies.has_independent_verdicts(run) and self.accuracies.has_independent_verdicts(
            other_run
        )
        if is_plain and correct / n <= their_correct / their_n - margin:
            return AxisRelation(False, False)
        compared = self.accuracies.compare(run, other_run)
        if compared is None:
            return AxisRelation(False, False)
        # at worst, where answers were cut off
        test = compared.ends[0] if compared.ends else compared.test
        effect = test.effect
        if effect.early_stop_comparisons is not None:
            # Its share was fixed before it ran: what its bets have decided stands, whatever else
            # the table has.
            self.shares[frozenset((run.run_id, other_run.run_id))] = effect.early_stop_comparisons
            is_better = test.decide_side_of_null(0.0) is Side.better
            is_worse = test.decide_side_of_null(0.0) is Side.worse
            is_within = test.decide_side_of_null(-margin) is Side.better
        else:
            is_better = effect.value > 0 and effect.p * self.pairs < self.level
            is_worse = effect.value < 0 and effect.p < ALPHA
            is_within = (
                effect.value > -margin and not is_worse and test.compute_p_value(-margin) * self.pairs < ALPHA
            )
        return AxisRelation(is_better, is_better or (is_within and not is_worse), compared.effect.value)


def _mark_pareto_front_rows(rows: list[TableRow], dominance: Dominance) -> None:
    """Mark the rows on the Pareto front. The rows must have answered the same questions."""
    dominators = [
        [
            index
            for index, rival in enumerate(rows)
            if rival is not row and dominance.is_dominating(rival, row)
        ]
        for row in rows
    ]
    for index, dominators_on_front in enumerate(find_dominators_on_pareto_front(dominators)):
        rows[index].on_front = not dominators_on_front
        if dominators_on_front:
            strongest = max(dominators_on_front, key=lambda number: _row_accuracy(rows[number]))
            rows[index].dominated_by = rows[strongest].run.job_id
            rows[index].dominated_in = dominance.list_better_axes(rows[strongest], rows[index])
            rows[index].accuracy_behind = dominance.compare_accuracy(rows[strongest], rows[index]).difference


def find_dominators_on_pareto_front(dominators_per_row: list[list[int]]) -> list[list[int]]:
    """Return, for each row, the front rows that dominate it. The list is empty for a row on the front.

    The front consists of the rows that no row of the front dominates, and of those that
    dominate one another in a circle.
    """
    found: list[list[int]] = [[] for _ in dominators_per_row]
    remaining = set(range(len(dominators_per_row)))
    while remaining:
        front = {index for index in remaining if remaining.isdisjoint(dominators_per_row[index])} or remaining
        remaining = remaining - front
        for index in remaining:
            found[index] = [dominator for dominator in dominators_per_row[index] if dominator in front]
        remaining = {index for index in remaining if not found[index]}
    return found


def _row_accuracy(row: TableRow) -> float:
    return row.run.accuracy_interval[0] if row.run.accuracy_interval else 0.0


def _mark_rows_off_pareto_front(rows: list[TableRow]) -> None:
    """Exclude rows from the Pareto front that shared their machine or ran on another type of machine.

    Without a baseline, the most common machine is the reference.
    """
    for row in rows:
        beside = describe_contention(row.run)
        row.off_front = None if beside == EXCLUSIVE else note("measured_beside", what=beside)
    alone = sorted((row for row in rows if not row.off_front), key=lambda row: not row.is_baseline)
    machines = [join_machine_names(row.run) for row in alone]
    usual = machines[0] if alone and alone[0].is_baseline else max(machines, key=machines.count, default="")
    for row, machine in zip(alone, machines, strict=True):
        if machine != usual:
            row.off_front = note("other_machine", machine=machine)

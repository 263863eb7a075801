"""Formats text about the Pareto front: its definition, dominated rows and ignored metrics."""

from __future__ import annotations

from itertools import chain

from runner_base import Column, ColumnUse, join_first_names
from runner_compare.features.front.compute import ENERGY, FEWEST_ROWS, MEMORY, SPEED, FrontData
from runner_compare.features.front.compute import FRONT as AXES
from runner_compare.model.data import ALONE_KEYS, MAX_NAMED, Run, Table, TableRow
from runner_compare.render.labels import MAX_NAMES, format_row_name
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import format_percentage_points
from runner_compare.statistics import ALPHA, MIN_RUNS
from runner_compare.statistics.sequential import comparison_level

ASKED = {MEMORY: "memory used by the model", ENERGY: "energy per question"}
PLURALS = {SPEED: "speeds", ENERGY: "joules"}
BETTER_OR_WORSE = {SPEED: "faster or slower", ENERGY: "thriftier or more wasteful"}
AS_GOOD = {SPEED: "as fast", ENERGY: "as low in energy"}


def format_pareto_front_sentences(table: Table) -> list[str]:
    kept = table.get_section_data(FrontData)
    sentences = []
    front = "The Pareto front ignores" if kept.axes else "There is no Pareto front, because it ignores"
    for axis, jobs in kept.lacking.items():
        named = f"{join_first_names(jobs, MAX_NAMED)} do{'es' if len(jobs) == 1 else ''}"
        sentences.append(f"{front} {AXES[axis]}: {named} not record {axis}, the {ASKED[axis]}")
    if kept.too_few_runs:
        jobs = list(dict.fromkeys(chain.from_iterable(kept.too_few_runs.values())))
        every = len(jobs) == len([row for row in table.rows if not row.off_front])
        which = "" if every else f" ({join_first_names(jobs, MAX_NAMED)})"
        axes = excluded_axes(kept)
        sentences.append(
            f"{front} {axes}: fewer than {MIN_RUNS} runs of a job{which} cannot show the variation of "
            f"{' and '.join(PLURALS[axis] for axis in kept.too_few_runs)}, so no run is called "
            f"{' or '.join(BETTER_OR_WORSE[axis] for axis in kept.too_few_runs)}. "
            f"To include {axes}, run each job at least {kept.runs} times "
            f"on an idle machine with {ALONE_KEYS}, or set the noise with --tolerance PERCENT"
        )
    if left_out := [
        f"{row.run.job_id} ({render_notes(row.off_front)})" for row in table.rows if row.off_front
    ]:
        alone = sum(not row.off_front and has_front_metrics(row.run) for row in table.rows)
        of_all = f"{alone} of {len(table.rows)} runs"
        count = (
            f"The Pareto front includes {of_all}, which were"
            if kept.axes
            else f"There is no Pareto front, because only {of_all} {'was' if alone == 1 else 'were'}"
        )
        two = "" if alone >= FEWEST_ROWS else f", and it needs {FEWEST_ROWS}"
        sentences.append(
            f"{count} measured in separate processes on idle machines of one type{two}. Excluded runs: "
            f"{join_first_names(left_out, MAX_NAMED if kept.axes else 1)}. "
            "To include these runs, run the jobs again on an idle "
            f"machine with {ALONE_KEYS}"
        )
    return sentences


def format_machine_contention_sentences(table: Table) -> list[str]:
    off = [row for row in table.rows if row.off_front and has_front_metrics(row.run)]
    if not off:
        return []
    return [
        f"Speed and memory are not comparable: {len(off)} of {len(table.rows)} jobs ran beside other programs or "
        f"on another machine. To measure them alone, repeat the jobs with {ALONE_KEYS}"
    ]


def has_front_metrics(run: Run) -> bool:
    return any(run.metrics.get(axis, 0.0) > 0 for axis in AXES)


def excluded_axes(front: FrontData) -> str:
    return " and ".join(AXES[axis] for axis in front.too_few_runs)


def describe_dominance_rule(table: Table) -> str:
    front = table.get_section_data(FrontData)
    shown = [f"as accurate within a margin of {100 * front.margins['accuracy']:g} points"]
    exact = [axis for axis in front.axes if axis not in front.margins or front.noise[axis].is_given]
    shown += [
        f"{AS_GOOD[axis]} within {100 * front.margins[axis]:g} %" for axis in front.axes if axis not in exact
    ]
    measured = f", nor worse beyond noise in {' and '.join(AXES[axis] for axis in exact)}" if exact else ""
    noise = [
        f"{words} in {AXES[axis]} ({axis})" for axis, words in describe_noise_by_pareto_metric(front).items()
    ]
    pairs = f"{front.pairs} pair{'s' * (front.pairs != 1)}"
    somewhere = " or ".join(AXES[axis] for axis in front.axes)
    wrong = min(1.0, ALPHA + sum(map(comparison_level, front.shares)))
    bets = (
        ". Where a run was compared while it ran, its e-process decides at its own share of 5 %"
        if front.shares
        else ""
    )
    return (
        "A run is dominated if another run meets three conditions. A test shows the other run to be "
        f"{' and '.join(shown)} (--margin). The other run is not significantly worse{measured}. "
        f"The other run is better beyond noise in accuracy or {somewhere}. "
        f"Noise is {'; '.join(noise)}. In accuracy, noise is a difference that the test of the two runs "
        f"does not detect{bets}. With Bonferroni correction over {pairs}, "
        f"at most {100 * wrong:.2g} of 100 such tables wrongly call a run dominated."
    )


def describe_noise_by_pareto_metric(front: FrontData) -> dict[str, str]:
    words = {}
    for axis, noise in front.noise.items():
        if noise.share is not None:
            words[axis] = f"differences up to {100 * noise.share:.3g} %{' (--tolerance)' * noise.is_given}"
        else:
            least, most = noise.runs
            spread = f"{least} to {most}" if least < most else f"{least}"
            words[axis] = f"differences without significance in Student's t-test over {spread} runs per job"
    return words


def format_dominated_rows_sentence(table: Table) -> str:
    """Name each dominated row, the row that dominates it, and the metrics in which that row is better."""
    rows = [row for row in table.rows if row.dominated_by]
    if not rows:
        return ""
    shown = [_describe_dominated_row(row, table) for row in rows[:MAX_NAMES]]
    more = f"; and {len(rows) - len(shown)} more" if len(shown) < len(rows) else ""
    axes = excluded_axes(table.get_section_data(FrontData))
    left_out = f" ({axes} not counted)" if axes else ""
    return f"Dominated beyond noise{left_out}: {'; '.join(shown)}{more}."


def _describe_dominated_row(row: TableRow, table: Table) -> str:
    other = table.find_row(row.dominated_by or "")
    name, other_name = (format_row_name(side, table.keys) for side in (row, other))
    if name == other_name:
        name, other_name = row.run.job_id, other.run.job_id
    better = []
    for axis in row.dominated_in:
        if axis in row.standing:
            ratio = other.standing[axis].value / row.standing[axis].value
            better.append(f"{AXES[axis]} ×{ratio:.2f}")
        else:
            better.append(f"{axis} {format_percentage_points(row.accuracy_behind)} points")
    for axis in table.get_section_data(
        FrontData
    ).too_few_runs:  # so that nobody takes a slower row for a better one
        ratio = other.run.metrics[axis] / row.run.metrics[axis]
        better.append(f"{AXES[axis]} ×{ratio:.2f}, not tested")
    return f"{name} by {other_name} ({', '.join(better)})"


def _format_pareto_front_status(row: TableRow) -> str:
    if row.off_front:
        return "left out"
    if row.on_front is None:
        return ""
    return "front" if row.on_front else "dominated"


def build_pareto_front_columns(table: Table) -> list[Column]:
    left_out = excluded_axes(table.get_section_data(FrontData))
    head = f"Pareto\nwithout {left_out}" if left_out else "Pareto"
    return [Column(head, list(map(_format_pareto_front_status, table.rows)), False, use=ColumnUse.verdict)]

"""The front in words: the rule, which rows are dominated, and what is left out."""

from __future__ import annotations

from runner_base import few
from runner_compare.data import ALONE_KEYS, MAX_NAMED, Table, TableRow
from runner_compare.front import FRONT as AXES
from runner_compare.front import SPEED, Front
from runner_compare.quantities import points
from runner_compare.statistics import ALPHA, MIN_RUNS
from runner_compare.statistics.sequential import level_of
from runner_compare.wording import MAX_NAMES, name_of


def front_sentences(table: Table) -> list[str]:
    """Return which rows are dominated in which axes, and what the front leaves out."""
    kept = table.of(Front)
    sentences = [kept.dominated] if kept.dominated else []
    front = "the Pareto front leaves out" if kept.axes else "no Pareto front: it leaves out"
    if kept.without_memory:
        jobs = f"{few(kept.without_memory, MAX_NAMED)} do{('es' if len(kept.without_memory) == 1 else '')}"
        sentences.append(
            f"{front} memory: {jobs} not say how much memory the model took (model_mib)"
        )
    if kept.without_speed:
        every = len(kept.without_speed) == len([row for row in table.rows if not row.off_front])
        which = "" if every else f" ({few(kept.without_speed, MAX_NAMED)})"
        sentences.append(
            f"{front} speed: speeds of fewer than {MIN_RUNS} runs{which} do not show how far runs differ by "
            "themselves, so no row is called faster or slower. To count speed, run each job "
            f"{kept.runs} times or more, on an idle machine with {ALONE_KEYS}, or give the noise yourself: "
            "--tolerance PERCENT"
        )
    if left_out := [f"{row.run.job_id} ({row.off_front})" for row in table.rows if row.off_front]:
        count = (
            f"the Pareto front counts {len(table.rows) - len(left_out)} of {len(table.rows)} runs"
        )
        sentences.append(
            f"{count if kept.axes else 'no Pareto front'}: speed counts only where a job had a process and the "
            "machine to itself, on one kind of machine. Left out: "
            f"{few(left_out, MAX_NAMED if kept.axes else 1)}. To count them, run the jobs again on an idle "
            f"machine with {ALONE_KEYS}"
        )
    return sentences


def front_rule(table: Table) -> str:
    """Return the rule by which a row is dominated."""
    front = table.of(Front)
    shown = [f"as accurate within {100 * front.margins['accuracy']:g} points"]
    exact = [
        axis for axis in front.axes if axis not in front.margins or "given" in front.noise[axis]
    ]
    shown += [
        f"as fast within {100 * front.margins[axis]:g} %"
        for axis in front.axes
        if axis not in exact
    ]
    measured = (
        f", is not worse beyond noise in {' and '.join(AXES[axis] for axis in exact)}"
        if exact
        else ""
    )
    noise = [f"{noise_words} in {AXES[axis]} ({axis})" for axis, noise_words in front.noise.items()]
    pairs = f"{front.pairs} pair{'s' * (front.pairs != 1)}"
    somewhere = " or ".join(AXES[axis] for axis in front.axes)
    wrong = min(1.0, ALPHA + sum(map(level_of, front.shares)))
    bets = (
        "; where one ran beside the other, what its bets decided at their own share of 5 %"
        if front.shares
        else ""
    )
    return (
        f"Pareto: a row is dominated if another one is shown to be {' and '.join(shown)} (--margin), is not shown to "
        f"be worse{measured}, and is better beyond noise in accuracy or {somewhere}. Noise: {'; '.join(noise)}; in "
        f"accuracy, what the test of the two rows does not show{bets}. Bonferroni over {pairs}: a row is called "
        f"dominated wrongly in at most {100 * wrong:.2g} of 100 such tables."
    )


def dominated(table: Table) -> str:
    """Return which rows are dominated, by which others and in which axes; empty if none is."""
    rows = [row for row in table.rows if row.dominated_by]
    if not rows:
        return ""
    shown = [_dominated(row, table) for row in rows[:MAX_NAMES]]
    more = f"; and {len(rows) - len(shown)} more" if len(shown) < len(rows) else ""
    left_out = " (speed left out)" if table.of(Front).without_speed else ""
    return f"dominated beyond noise{left_out}: {'; '.join(shown)}{more}"


def _dominated(row: TableRow, table: Table) -> str:
    other = table.row(row.dominated_by or "")
    name, other_name = (name_of(side, table.keys) for side in (row, other))
    if name == other_name:
        name, other_name = row.run.job_id, other.run.job_id
    better = []
    for axis in row.dominated_in:
        if axis in row.standing:
            ratio = other.standing[axis].value / row.standing[axis].value
            better.append(f"{AXES[axis]} ×{ratio:.2f}")
        else:
            better.append(f"{axis} {points(row.accuracy_behind)} points")
    if table.of(Front).without_speed:  # so that nobody takes a slower row for a better one
        better.append(
            f"{AXES[SPEED]} ×{other.run.metrics[SPEED] / row.run.metrics[SPEED]:.2f}, not tested"
        )
    return f"{name} by {other_name} ({', '.join(better)})"

"""The front in words: the rule, which rows are dominated, and what is left out."""

from __future__ import annotations

from itertools import chain

from runner_base import Column, Use, few
from runner_compare.features.front.compute import ENERGY, FEWEST_ROWS, MEMORY, SPEED, Front
from runner_compare.features.front.compute import FRONT as AXES
from runner_compare.model.data import ALONE_KEYS, MAX_NAMED, Run, Table, TableRow
from runner_compare.render.labels import MAX_NAMES, name_of
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import points
from runner_compare.statistics import ALPHA, MIN_RUNS
from runner_compare.statistics.sequential import level_of

HOW = "How the Pareto front is found: --explain."

ASKED = {MEMORY: "memory the model took", ENERGY: "energy a question took"}
PLURALS = {SPEED: "speeds", ENERGY: "joules"}
BETTER_OR_WORSE = {SPEED: "faster or slower", ENERGY: "thriftier or more wasteful"}
AS_GOOD = {SPEED: "as fast", ENERGY: "as low in energy"}


def front_sentences(table: Table) -> list[str]:
    """Return what the front leaves out."""
    kept = table.of(Front)
    sentences = []
    front = "the Pareto front leaves out" if kept.axes else "no Pareto front: it leaves out"
    for axis, jobs in kept.lacking.items():
        named = f"{few(jobs, MAX_NAMED)} do{'es' if len(jobs) == 1 else ''}"
        sentences.append(f"{front} {AXES[axis]}: {named} not say how much {ASKED[axis]} ({axis})")
    if kept.too_few_runs:
        jobs = list(dict.fromkeys(chain.from_iterable(kept.too_few_runs.values())))
        every = len(jobs) == len([row for row in table.rows if not row.off_front])
        which = "" if every else f" ({few(jobs, MAX_NAMED)})"
        axes = left_out_axes(kept)
        sentences.append(
            f"{front} {axes}: {' and '.join(PLURALS[axis] for axis in kept.too_few_runs)} of fewer than "
            f"{MIN_RUNS} runs{which} do not show how far runs differ by themselves, so no row is called "
            f"{' or '.join(BETTER_OR_WORSE[axis] for axis in kept.too_few_runs)}. To count {axes}, run each job "
            f"{kept.runs} times or more, on an idle machine with {ALONE_KEYS}, or give the noise yourself: "
            "--tolerance PERCENT"
        )
    if left_out := [
        f"{row.run.job_id} ({render_notes(row.off_front)})" for row in table.rows if row.off_front
    ]:
        alone = sum(not row.off_front and has_figures(row.run) for row in table.rows)
        of_all = f"{alone} of {len(table.rows)} runs"
        count = (
            f"the Pareto front counts {of_all}, which were"
            if kept.axes
            else f"no Pareto front: {of_all} {'was' if alone == 1 else 'were'}"
        )
        two = "" if alone >= FEWEST_ROWS else f", and a front needs {FEWEST_ROWS}"
        sentences.append(
            f"{count} measured alone (a process and the machine to itself, on one kind of machine){two}. Left out: "
            f"{few(left_out, MAX_NAMED if kept.axes else 1)}. To count them, run the jobs again on an idle "
            f"machine with {ALONE_KEYS}"
        )
    return sentences


def has_figures(run: Run) -> bool:
    """Whether a run has measured anything that a front counts; answers may all be reused."""
    return any(run.metrics.get(axis, 0.0) > 0 for axis in AXES)


def left_out_axes(front: Front) -> str:
    """Return the axes that are left out because too few runs show their noise; empty if none is."""
    return " and ".join(AXES[axis] for axis in front.too_few_runs)


def front_rule(table: Table) -> str:
    """Return the rule by which a row is dominated."""
    front = table.of(Front)
    shown = [f"as accurate within {100 * front.margins['accuracy']:g} points"]
    exact = [axis for axis in front.axes if axis not in front.margins or front.noise[axis].is_given]
    shown += [
        f"{AS_GOOD[axis]} within {100 * front.margins[axis]:g} %" for axis in front.axes if axis not in exact
    ]
    measured = f", is not worse beyond noise in {' and '.join(AXES[axis] for axis in exact)}" if exact else ""
    noise = [f"{words} in {AXES[axis]} ({axis})" for axis, words in noise_words(front).items()]
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


def noise_words(front: Front) -> dict[str, str]:
    """Return by axis which differences are noise."""
    words = {}
    for axis, noise in front.noise.items():
        if noise.share is not None:
            words[axis] = f"{100 * noise.share:.3g} %{', as given by --tolerance,' * noise.is_given}"
        else:
            least, most = noise.runs
            spread = f"{least} to {most}" if least < most else f"{least}"
            words[axis] = f"what Student's t over {spread} runs of each job does not show"
    return words


def dominated(table: Table) -> str:
    """Return which rows are dominated, by which others and in which axes; empty if none is."""
    rows = [row for row in table.rows if row.dominated_by]
    if not rows:
        return ""
    shown = [_dominated(row, table) for row in rows[:MAX_NAMES]]
    more = f"; and {len(rows) - len(shown)} more" if len(shown) < len(rows) else ""
    axes = left_out_axes(table.of(Front))
    left_out = f" ({axes} left out)" if axes else ""
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
    for axis in table.of(Front).too_few_runs:  # so that nobody takes a slower row for a better one
        ratio = other.run.metrics[axis] / row.run.metrics[axis]
        better.append(f"{AXES[axis]} ×{ratio:.2f}, not tested")
    return f"{name} by {other_name} ({', '.join(better)})"


def _place(row: TableRow) -> str:
    if row.off_front:
        return "left out"
    if row.on_front is None:
        return ""
    return "front" if row.on_front else "dominated"


def front_columns(table: Table) -> list[Column]:
    """Return which rows are on the front."""
    left_out = left_out_axes(table.of(Front))
    head = f"Pareto\nwithout {left_out}" if left_out else "Pareto"
    return [Column(head, list(map(_place, table.rows)), False, use=Use.verdict)]

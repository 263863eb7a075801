"""The noise floor: by how much a baseline differs from itself, beside the findings about other
rows.

A baseline differs from itself if it was run again under other conditions: with task.repeat=1 (other
rows go along in each batch), or as the same job once more (rerun=all), with another batch size or
on another machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runner_base.notes import Note, note
from runner_compare.model.data import REPEAT, NotPaired, Run, TableRow
from runner_compare.reader import Reader
from runner_compare.statistics import ALPHA, Effect, Finding
from runner_compare.ways.verdicts import compare_pair

MAX_EARLIER_RUNS = 3  # runs of the same job that are read: each may have to be fetched


def repeats_among(candidates: Sequence[Run], baseline: dict[str, str]) -> set[str]:
    """Return the ids of the candidates for a baseline that are repeats of another one."""
    repeats = {run.run_id for run in candidates if (run.value(REPEAT) or "0") != "0"}
    return set() if REPEAT in baseline or len(repeats) == len(candidates) else repeats


def beside_noise(rows: Sequence[TableRow], reader: Reader) -> None:
    """Say beside each finding what the baseline's noise is, if it matters."""
    floors: dict[str, list[Effect]] = {}
    for row in rows:
        if row.is_repeat and row.effect is not None and row.baseline is not None:
            row.note_beside(_changed(row.effect))
            floors.setdefault(row.baseline.run.run_id, []).append(row.effect)
    for row in rows:
        effect, base = row.effect, row.baseline
        if row.is_repeat or base is None or effect is None or effect.finding is Finding.open:
            continue
        row.note_beside(*map(_changed_when_asked_again, (base.run, row.run)))
        noise = [floor for floor in floors.get(base.run.run_id, []) if floor.measure == effect.measure]
        noise += earlier_effects(base.run, reader) if base.run.score and not base.run.parts else []
        largest = max(noise, key=lambda earlier: abs(earlier.value), default=None)
        if largest is None:
            continue
        if abs(effect.value) <= abs(largest.value):
            row.note_beside(note("within_noise", effect=largest))
        elif min(earlier.p for earlier in noise) * len(noise) < ALPHA:
            row.note_beside(note("beside_noise", effect=largest))


def earlier_effects(base: Run, reader: Reader) -> list[Effect]:
    """Return the differences of the baseline's earlier runs from its newest, where their samples
    are kept."""
    effects = []
    for run in base.earlier[:MAX_EARLIER_RUNS]:
        if run.score is None or run.errors:
            continue
        # The job's folder has the newest run's files: this run's are only in MLflow.
        older = replace(run, job_id=f"{run.job_id}@{run.run_id[:8]}", folder="")
        try:
            effects.append(compare_pair(older, base, reader).effect)
        except NotPaired:
            continue  # an earlier run without its samples says nothing about noise
    return effects


def _changed(effect: Effect) -> Note | None:
    """Say how many verdicts, or shares of right answers, differ between the baseline and its
    repeat."""
    wins, losses = effect.counts.get("wins"), effect.counts.get("losses")
    if wins is None or losses is None:
        return None
    if effect.counts.get("samples", 1) > 1:  # wins and losses are those of means
        return note("shares_changed", changed=wins + losses, n=effect.n)
    return note("verdicts_changed", changed=wins + losses, n=effect.n)


def _changed_when_asked_again(run: Run) -> Note | None:
    """Say how many of a run's answers changed when their questions were asked again; None if none
    did."""
    changed, asked = run.metrics.get("answers_changed"), run.metrics.get("asked_again")
    return (
        note("answers_changed", changed=changed, asked=asked, job=run.job_id) if changed and asked else None
    )

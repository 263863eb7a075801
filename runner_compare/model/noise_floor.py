"""Compares each finding with the variation between repeated runs of the baseline.

A baseline differs from itself if it was repeated under other conditions: with task.repeat_index=1
(other sequences share each batch), or as the same job again (rerun=all), with another batch
size or on another machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from runner_base.notes import Note, note
from runner_compare.model.data import REPEAT, NotPaired, Run, TableRow
from runner_compare.reader import Reader
from runner_compare.statistics import ALPHA, Effect, Finding
from runner_compare.ways.verdicts import compare_pair

MAX_EARLIER_RUNS = 3  # runs of the same job that are read: each may have to be fetched


def find_baseline_repeat_run_ids(candidates: Sequence[Run], baseline: dict[str, str]) -> set[str]:
    repeats = {run.run_id for run in candidates if (run.get_value(REPEAT) or "0") != "0"}
    return set() if REPEAT in baseline or len(repeats) == len(candidates) else repeats


def find_repeats_of_run(runs: Sequence[Run], base: Run, reader: Reader) -> set[str]:
    """Return the ids of the runs that repeat a run: their configs differ only in the repeat's number."""
    return {
        run.run_id
        for run in runs
        if (run.get_value(REPEAT) or "0") != "0"
        and reader.key_rules.find_differing_keys([run.params, base.params]) == [REPEAT]
    }


def add_baseline_noise_notes(rows: Sequence[TableRow], reader: Reader) -> None:
    """Add notes that compare each finding with the variation between repeated runs of the baseline."""
    floors: dict[str, list[Effect]] = {}
    for row in rows:
        if row.is_repeat and row.effect is not None and row.baseline is not None:
            row.add_notes(_create_changed_verdicts_note(row.effect))
            floors.setdefault(row.baseline.run.run_id, []).append(row.effect)
    for row in rows:
        effect, base = row.effect, row.baseline
        if row.is_repeat or base is None or effect is None or effect.finding is Finding.open:
            continue
        row.add_notes(*map(_create_changed_answers_note, (base.run, row.run)))
        noise = [floor for floor in floors.get(base.run.run_id, []) if floor.measure == effect.measure]
        noise += (
            compare_baseline_with_earlier_runs(base.run, reader)
            if base.run.correct_and_total and not base.run.parts
            else []
        )
        largest = max(noise, key=lambda earlier: abs(earlier.value), default=None)
        if largest is None:
            continue
        if abs(effect.value) <= abs(largest.value):
            row.add_notes(note("within_noise", effect=largest))
        elif min(earlier.p for earlier in noise) * len(noise) < ALPHA:
            row.add_notes(note("beside_noise", effect=largest))


def compare_baseline_with_earlier_runs(base: Run, reader: Reader) -> list[Effect]:
    """Compare the newest run of the baseline with its earlier runs, as far as their samples are stored."""
    effects = []
    for older in iter_earlier_runs(base):
        try:
            effects.append(compare_pair(older, base, reader).effect)
        except NotPaired:
            continue  # an earlier run without its samples says nothing about noise
    return effects


def iter_earlier_runs(base: Run) -> Iterator[Run]:
    """Yield the newest earlier runs of a job that have verdicts and no errors."""
    for run in base.earlier[:MAX_EARLIER_RUNS]:
        if run.correct_and_total is not None and not run.errors:
            # The job's folder has the newest run's files: this run's are only in MLflow.
            yield replace(run, job_id=f"{run.job_id}@{run.run_id[:8]}", folder="")


def _create_changed_verdicts_note(effect: Effect) -> Note | None:
    """Return a note that counts the verdicts that differ between a baseline and its repeat.

    With several answers per question, accuracies are counted instead of verdicts.
    """
    wins, losses = effect.counts.get("wins"), effect.counts.get("losses")
    if wins is None or losses is None:
        return None
    if effect.counts.get("samples", 1) > 1:  # wins and losses are those of means
        return note("shares_changed", changed=wins + losses, n=effect.n)
    return note("verdicts_changed", changed=wins + losses, n=effect.n)


def _create_changed_answers_note(run: Run) -> Note | None:
    """Return a note that counts the answers that changed when they were repeated. None if no answer
    changed.
    """
    changed, asked = run.metrics.get("answers_changed"), run.metrics.get("asked_again")
    return (
        note("answers_changed", changed=changed, asked=asked, job=run.job_id) if changed and asked else None
    )

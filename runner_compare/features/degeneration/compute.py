"""Tests whether a run has more degenerate answers than its baseline, and measures where loops begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from runner_base.degeneration import find_longest_text_loop, measure_degeneration
from runner_compare.model.data import Answers, NotPaired, Run, Table, TableRow
from runner_compare.model.question_metrics import DEGENERATE
from runner_compare.reader import Reader
from runner_compare.statistics import (
    Decision,
    RunComparison,
    create_undecided_decision,
    decide_comparisons_with_holm,
)
from runner_compare.ways.verdicts import compare_answers

WHOLE = 10**9  # characters of a text
LOOPS = "loops"  # the metric with their number


class LoopStart(NamedTuple):
    """Number of words in an answer before its loop. Without a loop: number of all words."""

    num_words: int
    has_loop: bool


@dataclass
class TableDegeneration:
    """Comparisons of the share of answers that did not degenerate, and the starts of loops, by run id."""

    effects: dict[str, Decision] = field(default_factory=dict)
    loop_starts: dict[str, list[LoopStart]] = field(default_factory=dict)


def compare_degeneration_with_baselines(table: Table, reader: Reader) -> None:
    """Compare each run with its baseline, if an answer of either degenerated. Loads the texts of both."""
    compared = [
        (row, comparison)
        for row in table.rows
        if (comparison := _compare_degeneration_with_baseline(row, reader)) is not None
    ]
    decisions = iter(
        decide_comparisons_with_holm([comparison for row, comparison in compared if not row.is_repeat])
    )
    effects = table.get_section_data(TableDegeneration).effects
    for row, comparison in compared:
        effects[row.run.run_id] = (
            create_undecided_decision(comparison.test) if row.is_repeat else next(decisions)
        )


def find_loop_starts_in_answers(table: Table, reader: Reader) -> None:
    """Find where the loops of all answers start. Does nothing if no run has loops."""
    runs = [row.run for row in table.rows if not row.run.over_seeds]
    if any(run.metrics.get(LOOPS) or run.number == DEGENERATE for run in runs):
        table.get_section_data(TableDegeneration).loop_starts = {
            run.run_id: [*map(count_words_before_loop, reader.iter_generated_texts(run))] for run in runs
        }


def count_words_before_loop(text: str) -> LoopStart:
    text = " ".join(text.split())
    loop = find_longest_text_loop(text)
    return LoopStart(len((text if loop is None else text[: loop.start]).split()), loop is not None)


def compute_half_loop_words(starts: Sequence[LoopStart]) -> int | None:
    """Return the number of words by which half of the answers loop, or None if fewer do."""
    return next((words for words, share in compute_loop_free_survival_curve(starts) if share <= 0.5), None)


def compute_loop_free_survival_curve(starts: Sequence[LoopStart]) -> list[tuple[int, float]]:
    """Return the Kaplan-Meier estimate of the share of answers without a loop, by number of words."""
    curve, share = [(0, 1.0)], 1.0
    for num_words in sorted({start.num_words for start in starts if start.has_loop}):
        num_reached = sum(start.num_words >= num_words for start in starts)
        num_looping = sum(start.has_loop for start in starts if start.num_words == num_words)
        share *= 1 - num_looping / num_reached
        curve.append((num_words, share))
    return [*curve, (max((start.num_words for start in starts), default=0), share)]


def _compare_degeneration_with_baseline(row: TableRow, reader: Reader) -> RunComparison | None:
    if row.baseline is None or row.effect is None:
        return None
    run, base = row.run, row.baseline.run
    is_composed = any(side.over_seeds or side.parts for side in (run, base))
    if is_composed or not any(side.metrics.get(DEGENERATE) for side in (run, base)):
        return None
    try:
        answers = tuple(_load_degeneration_outcomes(side, reader) for side in (run, base))
        return compare_answers(run, base, (answers[0], answers[1]), reader)
    except NotPaired:
        return None  # the row says why its verdicts have no pairs


def _load_degeneration_outcomes(run: Run, reader: Reader) -> Answers:
    """Return the outcome of each question, which is solved if its answer did not degenerate."""
    outcomes = reader.load_answers(run)
    texts = reader.load_answer_texts(run, {*outcomes}, WHOLE)
    return {
        question: outcome._replace(
            solved=not measure_degeneration(texts[question]["text"]).is_degenerate, right=(0, 0), cut_off=0
        )
        for question, outcome in outcomes.items()
        if question in texts
    }

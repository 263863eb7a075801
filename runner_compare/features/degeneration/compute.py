"""Tests whether a run has more degenerate answers than its baseline, and measures where loops begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from runner_base.degeneration import measure_degeneration
from runner_compare.model.data import Answers, NotPaired, Run, Table, TableRow
from runner_compare.model.question_metrics import DEGENERATE
from runner_compare.reader import Reader
from runner_compare.statistics import Decision, RunComparison, create_undecided_decision, decide_comparisons
from runner_compare.ways.verdicts import compare_answers

WHOLE = 10**9  # characters of a text


class LoopStart(NamedTuple):
    """Number of words in an answer before its loop. Without a loop: number of all words."""

    num_words: int
    has_loop: bool


@dataclass
class TableDegeneration:
    """Comparisons of the share of answers that did not degenerate, and the starts of loops, by run id."""

    effects: dict[str, Decision] = field(default_factory=dict)
    loop_starts: dict[str, list[LoopStart]] = field(default_factory=dict)


def compare_degeneration(table: Table, reader: Reader) -> None:
    """Compare each run with its baseline, if an answer of either degenerated. Loads the texts of both."""
    found, outcomes = table.get_section_data(TableDegeneration), LoadedOutcomes(reader)
    compared = [
        (row, comparison)
        for row in table.rows
        if (comparison := _compare_row_degeneration(row, reader, outcomes)) is not None
    ]
    decisions = iter(decide_comparisons([comparison for row, comparison in compared if not row.is_repeat]))
    for row, comparison in compared:
        found.effects[row.run.run_id] = (
            create_undecided_decision(comparison.test) if row.is_repeat else next(decisions)
        )
    found.loop_starts = outcomes.loop_starts


def compute_loop_free_curve(starts: Sequence[LoopStart]) -> list[tuple[int, float]]:
    """Return the Kaplan-Meier estimate of the share of answers without a loop, by number of words."""
    curve, share = [(0, 1.0)], 1.0
    for num_words in sorted({start.num_words for start in starts if start.has_loop}):
        num_reached = sum(start.num_words >= num_words for start in starts)
        num_looping = sum(start.has_loop for start in starts if start.num_words == num_words)
        share *= 1 - num_looping / num_reached
        curve.append((num_words, share))
    return [*curve, (max((start.num_words for start in starts), default=0), share)]


class LoadedOutcomes:
    """Outcomes of the questions of runs, each of which is loaded once."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.loop_starts: dict[str, list[LoopStart]] = {}
        self._loaded: dict[str, Answers] = {}

    def load(self, run: Run) -> Answers:
        """Return the outcome of each question, which is solved if its answer did not degenerate."""
        if run.run_id not in self._loaded:
            outcomes = self.reader.load_answers(run)
            texts = self.reader.load_answer_texts(run, {*outcomes}, WHOLE)
            starts, self._loaded[run.run_id] = self.loop_starts.setdefault(run.run_id, []), {}
            for question in outcomes.keys() & texts.keys():
                text = " ".join(texts[question]["text"].split())
                signs = measure_degeneration(text)
                healthy_text = text if signs.loop is None else text[: signs.loop.start]
                starts.append(LoopStart(len(healthy_text.split()), signs.loop is not None))
                self._loaded[run.run_id][question] = outcomes[question]._replace(
                    solved=not signs.is_degenerate, right=(0, 0), cut_off=0
                )
        return self._loaded[run.run_id]


def _compare_row_degeneration(
    row: TableRow, reader: Reader, outcomes: LoadedOutcomes
) -> RunComparison | None:
    if row.baseline is None or row.effect is None:
        return None
    run, base = row.run, row.baseline.run
    is_composed = any(side.over_seeds or side.parts for side in (run, base))
    if is_composed or not any(side.metrics.get(DEGENERATE) for side in (run, base)):
        return None
    try:
        return compare_answers(run, base, (outcomes.load(run), outcomes.load(base)), reader)
    except NotPaired:
        return None  # the row says why its verdicts have no pairs

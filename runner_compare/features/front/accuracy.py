"""Accuracies of pairs of rows on the front: the very effect that a comparison of the two rows would
have.

Most rows have one verdict for each question. Of these, only the numbers of questions that one of
the two solved count, which are found quickly for thousands of pairs. Families of questions, several
answers to a question, and runs that were compared while they ran are paired as in any comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from runner_compare.model.data import Answers, NotPaired, Question, Run
from runner_compare.model.mean_pairs import has_means
from runner_compare.reader import Reader
from runner_compare.statistics import Compared, McNemar
from runner_compare.ways import Asked
from runner_compare.ways.verdicts import compare_answers, unpaired_scores


class Bits(NamedTuple):
    """The number of a set of questions, and which of them a run solved, and which of its answers
    were cut off."""

    questions: int
    solved: int
    cut_off: int

    def won(self, other: Bits, if_cut_off: int) -> int:
        """Count what only this run solved; if_cut_off: its cut-off answers are right (1), or the
        other's are (-1)."""
        solved = self.solved | (self.cut_off if if_cut_off > 0 else 0)
        return (solved & ~(other.solved | (other.cut_off if if_cut_off < 0 else 0))).bit_count()


class PairsOfRuns:
    """Compares the accuracies of any two runs; without a reader by their counts alone."""

    def __init__(self, reader: Reader | None, compared_keys: Sequence[str]) -> None:
        self.reader, self.asked = reader, Asked(compared_keys)
        self._bits: dict[str, Bits | None] = {}  # None: its samples are missing
        # of runs that are more than one verdict for each question
        self._answers: dict[str, Answers] = {}
        self._sets: dict[tuple[Question, ...], int] = {}

    def effect(self, run: Run, other: Run) -> Compared | None:
        """Return the difference of the first run from the second; None if the two cannot be
        compared."""
        if not (self.is_plain(run) and self.is_plain(other)):
            return self._as_compared(run, other)
        (correct, n), (their_correct, their_n) = run.score or (0, 1), other.score or (0, 1)
        run_answers, other_answers = self._read(run), self._read(other)
        if run_answers is None or other_answers is None or run_answers.questions != other_answers.questions:
            return _unpaired((correct, n), run.bounds, (their_correct, their_n), other.bounds)
        counted, low, high = (
            _paired(run_answers.won(other_answers, end), other_answers.won(run_answers, -end), n)
            for end in (0, -1, 1)
        )
        cut_off = run_answers.cut_off.bit_count(), other_answers.cut_off.bit_count()
        return Compared(counted, cut_off, (low, high)) if any(cut_off) else Compared(counted)

    def is_plain(self, run: Run) -> bool:
        """Whether a run has one verdict for each question, and the questions belong to no
        families."""
        if run.compared_while_running or run.answers_each > 1:
            return False
        self._read(run)
        return run.run_id not in self._answers

    def _as_compared(self, first: Run, second: Run) -> Compared | None:
        if self.reader is None:
            return None
        try:
            sides = [self._answers.get(run.run_id) or self.reader.of_baseline(run) for run in (first, second)]
            return compare_answers(first, second, (sides[0], sides[1]), self.reader, self.asked)
        except NotPaired:
            return None

    def _read(self, run: Run) -> Bits | None:
        """Read a run once, and keep no more of it than its pairs need."""
        if self.reader is not None and run.run_id not in self._bits:
            try:
                answers = self.reader.of(run)
            except NotPaired:
                self._bits[run.run_id] = None
            else:
                questions = sorted(answers)
                solved = "".join("01"[answers[question].solved] for question in questions)
                cut_off = "".join("01"[answers[question].cut_off > 0] for question in questions)
                number = self._sets.setdefault(tuple(questions), len(self._sets))
                self._bits[run.run_id] = Bits(number, int(solved or "0", 2), int(cut_off or "0", 2))
                if has_means([(answer, answer) for answer in answers.values()]):
                    self._answers[run.run_id] = answers
        return self._bits.get(run.run_id)


# among many rows the same counts occur often
_paired, _unpaired = cache(McNemar), cache(unpaired_scores)

"""Compares the accuracies of run pairs for the Pareto front, with the tests of the comparison table.

Most runs have one verdict per question. For these, only the numbers of questions that one
of the two solved count, which are found quickly for thousands of pairs. Clustered
questions, several answers per question, and runs that were compared during execution are
paired as in any comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from runner_compare.model.data import Answers, NotPaired, Question, Run
from runner_compare.model.mean_pairs import needs_mean_test
from runner_compare.reader import Reader
from runner_compare.statistics import McNemarTest, RunComparison
from runner_compare.ways import PairingOptions
from runner_compare.ways.verdicts import compare_answers, compare_unpaired_scores


class VerdictBits(NamedTuple):
    """Questions that a run solved, and answers that were cut off, stored as the bits of two integers.

    Runs with equal ids of the question set answered the same questions.
    """

    questions: int
    solved: int
    cut_off: int

    def count_won_questions(self, other: VerdictBits, cut_off_sign: int) -> int:
        """Count the questions that this run solved and the other did not.

        `cut_off_sign` is 1 if this run's cut-off answers count as correct, -1 if the other run's
        answers do.
        """
        solved = self.solved | (self.cut_off if cut_off_sign > 0 else 0)
        return (solved & ~(other.solved | (other.cut_off if cut_off_sign < 0 else 0))).bit_count()


class AccuracyComparer:
    """Compares the accuracies of two runs.

    Without a reader, it compares only the numbers of correct answers.
    """

    def __init__(self, reader: Reader | None, compared_keys: Sequence[str]) -> None:
        self.reader, self.asked = reader, PairingOptions(compared_keys)
        self._bits: dict[str, VerdictBits | None] = {}  # None: its samples are missing
        # of runs that are more than one verdict for each question
        self._answers: dict[str, Answers] = {}
        self._sets: dict[tuple[Question, ...], int] = {}

    def compare(self, run: Run, other_run: Run) -> RunComparison | None:
        """Compare the accuracies of two runs (first minus second). Returns None if they cannot be
        compared.
        """
        if not (self.has_independent_verdicts(run) and self.has_independent_verdicts(other_run)):
            return self._compare_fully(run, other_run)
        (correct, n), (their_correct, their_n) = (
            run.correct_and_total or (0, 1),
            other_run.correct_and_total or (0, 1),
        )
        run_answers, other_answers = self._load_verdicts_as_bits(run), self._load_verdicts_as_bits(other_run)
        if run_answers is None or other_answers is None or run_answers.questions != other_answers.questions:
            return _unpaired(
                (correct, n), run.accuracy_bounds, (their_correct, their_n), other_run.accuracy_bounds
            )
        counted, low, high = (
            _paired(
                run_answers.count_won_questions(other_answers, end),
                other_answers.count_won_questions(run_answers, -end),
                n,
            )
            for end in (0, -1, 1)
        )
        cut_off = run_answers.cut_off.bit_count(), other_answers.cut_off.bit_count()
        return RunComparison(counted, cut_off, (low, high)) if any(cut_off) else RunComparison(counted)

    def has_independent_verdicts(self, run: Run) -> bool:
        """Whether a run has exactly one verdict per question and no clusters."""
        if run.compared_while_running or run.max_answers_per_question > 1:
            return False
        self._load_verdicts_as_bits(run)
        return run.run_id not in self._answers

    def _compare_fully(self, first: Run, second: Run) -> RunComparison | None:
        if self.reader is None:
            return None
        try:
            sides = [
                self._answers.get(run.run_id) or self.reader.load_baseline_answers(run)
                for run in (first, second)
            ]
            return compare_answers(first, second, (sides[0], sides[1]), self.reader, self.asked)
        except NotPaired:
            return None

    def _load_verdicts_as_bits(self, run: Run) -> VerdictBits | None:
        """Load a run's verdicts as bit sets and cache them."""
        if self.reader is not None and run.run_id not in self._bits:
            try:
                answers = self.reader.load_answers(run)
            except NotPaired:
                self._bits[run.run_id] = None
            else:
                questions = sorted(answers)
                solved = "".join("01"[answers[question].solved] for question in questions)
                cut_off = "".join("01"[answers[question].cut_off > 0] for question in questions)
                number = self._sets.setdefault(tuple(questions), len(self._sets))
                self._bits[run.run_id] = VerdictBits(number, int(solved or "0", 2), int(cut_off or "0", 2))
                if needs_mean_test([(answer, answer) for answer in answers.values()]):
                    self._answers[run.run_id] = answers
        return self._bits.get(run.run_id)


# among many rows the same counts occur often
_paired, _unpaired = cache(McNemarTest), cache(compare_unpaired_scores)

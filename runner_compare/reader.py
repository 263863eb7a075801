"""What a comparison asks of those who have runs: their answers, what these cost, and which of their
settings count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runner_base.notes import Note
from runner_compare.features.seeds.seed_answers import mean_answers
from runner_compare.metrics import Better
from runner_compare.model.data import TEXT_END, NotPaired, Run
from runner_compare.model.key_rules import KeyRules
from runner_compare.model.outcomes import Answers, Costs, Question, Texts
from runner_compare.statistics.token_divergence import TextTokens

SAMPLES, REPEATS = "samples.jsonl", "repeats.jsonl"
NOT_THERE = "is neither in its folder nor in MLflow"


class Reader:
    """Reads what runs have answered; keeps the answers of baselines, because many runs are compared
    with them.

    A subclass says where the answers of one run are. What it cannot say stays as here: it is not
    known.
    """

    key_rules: KeyRules = KeyRules()
    # those that --metric may name, and which direction is better
    numbers_of_questions: Mapping[str, Better] = {}

    def __init__(self) -> None:
        self._baselines: dict[str, Answers] = {}

    def of_baseline(self, run: Run) -> Answers:
        """Return the baseline's answers, read once."""
        if run.run_id not in self._baselines:
            self._baselines[run.run_id] = self.of(run)
        return self._baselines[run.run_id]

    def of(self, run: Run) -> Answers:
        """Return which questions a run, or the pooled runs, solved."""
        parts = [self.of_one(part) for part in run.parts or [run]]
        if run.over_seeds:
            return mean_answers(parts)
        return {question: outcome for part in parts for question, outcome in part.items()}

    def of_one(self, run: Run) -> Answers:
        """Return which questions one run solved."""
        raise no_samples(run)

    def texts(self, run: Run) -> Texts:
        """Return the log-likelihood of each text."""
        raise no_samples(run)

    def numbers(self, run: Run) -> Answers:
        """Return the number of each question that is compared instead of its verdict."""
        raise no_samples(run)

    def words(self, run: Run, wanted: set[Question], most: int = TEXT_END) -> dict[Question, dict[str, str]]:
        """Return a run's answers to some questions: verdict, extracted answer, and the end of the
        text."""
        return {}

    def costs(self, run: Run) -> Costs:
        """Return what each scored question of one run cost in tokens."""
        raise no_samples(run)

    def left_out(self, run: Run) -> set[Question]:
        """Return the questions that a run has answered and does not count."""
        return set()

    def repeats(self, run: Run) -> Iterator[dict[str, list[float]]]:
        """Yield the repeats of each measure, from each place that has them, the surest first."""
        return iter(())

    def text_tokens(self, run: Run) -> list[TextTokens] | None:
        """Return how far each token of a run's texts is from the reference; None if it did not keep
        that."""
        return None

    def worst_tokens(self, run: Run) -> list[dict[str, Any]]:
        """Return the tokens with the largest divergence, each with its context."""
        return []

    def files(self, run: Run, name: str) -> Iterator[Path]:
        """Yield the files of a name that a run has kept, from each place that has one, the surest
        first."""
        return iter(())

    def remark(self, run: Run, base: Run) -> Note | None:
        """Return what else a reader of a comparison of two runs has to know."""
        return None

    def rules_between(self, task: str, versions: tuple[str, str]) -> str:
        """Say what changed between two versions of a task's rules; empty if that is not known."""
        return ""

    def fetch(self, runs: Iterable[Run]) -> None:
        """Fetch what lies elsewhere, several at a time, before it is read."""


def no_samples(run: Run, why: str = "") -> NotPaired:
    """Return the error about a run whose answers are not there, or are not to be used; the latter
    says why."""
    return NotPaired(f"no samples: {SAMPLES} of {run.job_id} {why or NOT_THERE}")


def no_repeats(run: Run) -> NotPaired:
    """Return the error about a run whose repeats are not there."""
    return NotPaired(f"no repeats: {REPEATS} of {run.job_id} {NOT_THERE}, or not whole")

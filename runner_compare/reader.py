"""Base class of readers, which load the answers, token costs and settings of runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runner_base.notes import Note
from runner_compare.features.seeds.seed_answers import combine_seed_answers
from runner_compare.metrics import BetterDirection
from runner_compare.model.data import TEXT_END, NotPaired, Run
from runner_compare.model.key_rules import KeyRules
from runner_compare.model.outcomes import Answers, Costs, Question, Texts
from runner_compare.statistics.token_divergence import TextTokens

SAMPLES, REPEATS = "samples.jsonl", "repeats.jsonl"
NOT_THERE = "is neither in the job's folder nor in MLflow"


class Reader:
    """Loads the answers of runs. Answers of baselines are cached, because many runs share a
    baseline.

    A subclass provides the answers of one run. The defaults here mean "unknown".
    """

    key_rules: KeyRules = KeyRules()
    # those that --metric may name, and which direction is better
    numbers_of_questions: Mapping[str, BetterDirection] = {}

    def __init__(self) -> None:
        self._baselines: dict[str, Answers] = {}

    def load_baseline_answers(self, run: Run) -> Answers:
        """Return the answers of a baseline from the cache, and load them at the first call."""
        if run.run_id not in self._baselines:
            self._baselines[run.run_id] = self.load_answers(run)
        return self._baselines[run.run_id]

    def load_answers(self, run: Run) -> Answers:
        """Return the outcome of each question. The outcomes of pooled runs are combined."""
        parts = [self.load_run_answers(part) for part in run.parts or [run]]
        if run.over_seeds:
            return combine_seed_answers(parts)
        return {question: outcome for part in parts for question, outcome in part.items()}

    def load_run_answers(self, run: Run) -> Answers:
        raise missing_samples_error(run)

    def load_text_scores(self, run: Run) -> Texts:
        """Return the log-likelihood of each document of a run."""
        raise missing_samples_error(run)

    def load_metric_values(self, run: Run) -> Answers:
        """Return each question's outcome, with the value of the compared metric in place of a verdict."""
        raise missing_samples_error(run)

    def load_answer_texts(
        self, run: Run, questions: set[Question], max_chars: int = TEXT_END
    ) -> dict[Question, dict[str, str]]:
        """Return a run's answers to the given questions: verdict, extracted answer, and the end of
        the text.
        """
        return {}

    def iter_generated_texts(self, run: Run) -> Iterator[str]:
        """Yield all generated answers of a run, with or without a verdict."""
        return iter(())

    def load_token_costs(self, run: Run) -> Costs:
        """Return the token cost of each scored question of a single run."""
        raise missing_samples_error(run)

    def find_excluded_questions(self, run: Run) -> set[Question]:
        """Return the answered questions that are excluded from the run's accuracy."""
        return set()

    def iter_repeated_measurements(self, run: Run) -> Iterator[dict[str, list[float]]]:
        """Yield a run's repeated measurements by metric from each source, the most reliable source first."""
        return iter(())

    def load_text_tokens(self, run: Run) -> list[TextTokens] | None:
        """Return each token's divergence from the reference model; None if not stored."""
        return None

    def load_worst_tokens(self, run: Run) -> list[dict[str, Any]]:
        """Return a run's tokens with the largest divergence from the reference, each with its
        context.
        """
        return []

    def find_files(self, run: Run, name: str) -> Iterator[Path]:
        """Yield a run's stored files with this name, most reliable source first."""
        return iter(())

    def create_pairing_note(self, run: Run, base: Run) -> Note | None:
        """Return a note that explains the comparison of two runs, or None."""
        return None

    def describe_rule_changes(self, task: str, versions: tuple[str, str]) -> str:
        """Describe how a task's scoring rules changed between two versions; "" if unknown."""
        return ""

    def fetch_files(self, runs: Iterable[Run]) -> None:
        """Fetch remote files of several runs in parallel before they are read."""


def missing_samples_error(run: Run, reason: str = "") -> NotPaired:
    return NotPaired(f"samples are missing, because {SAMPLES} of job {run.job_id} {reason or NOT_THERE}")


def missing_repeats_error(run: Run) -> NotPaired:
    return NotPaired(
        f"repeated measurements are missing, because {REPEATS} of {run.job_id} {NOT_THERE}, or is incomplete"
    )

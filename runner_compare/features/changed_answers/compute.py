"""Counts answers whose text changes if speculative decoding is switched on, off or reconfigured."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from runner_compare.model.data import NotPaired, Run
from runner_compare.model.mean_pairs import cluster_questions_by_expected_function
from runner_compare.reader import Reader
from runner_compare.statistics.accuracy_intervals import compute_exact_accuracy_interval

GUESSES = "generation.speculate"
WHOLE = 10**9  # characters of an answer that are compared: all


@dataclass(frozen=True)
class ChangedAnswers:
    """Counts of answers whose text differs between two runs, on the questions that both answered."""

    is_changed: tuple[bool, ...]
    families: tuple[str | None, ...]  # of the questions; None: they are independent

    @property
    def num_changed(self) -> int:
        return sum(self.is_changed)

    @property
    def num_answers(self) -> int:
        return len(self.is_changed)

    @property
    def num_clusters(self) -> int:
        """Number of question clusters, or 0 without clusters."""
        return 0 if None in self.families else len(set(self.families))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the fraction of changed answers, computed over clusters if
        there are any.
        """
        return compute_exact_accuracy_interval(self.is_changed, self.families)


@dataclass
class TableChangedAnswers:
    """Counts of changed answers by run id, for runs that differ from the baseline only in
    speculative decoding.
    """

    counts: dict[str, ChangedAnswers] = field(default_factory=dict)


def is_drafter_only_difference(run: Run, base: Run, reader: Reader) -> bool:
    keys = reader.key_rules.find_differing_keys([run.params, base.params])
    return bool(keys) and all(key.startswith(GUESSES) for key in keys)


def count_changed_answers(run: Run, base: Run, reader: Reader) -> ChangedAnswers:
    outcomes, of_base = reader.load_answers(run), reader.load_baseline_answers(base)
    shared = outcomes.keys() & of_base.keys()
    own, other = (reader.load_answer_texts(side, {*shared}, WHOLE) for side in (run, base))
    known = own.keys() & other.keys()
    if not known:
        raise NotPaired("no answers to the same questions")
    questions = sorted(known)
    pairs = cluster_questions_by_expected_function(
        questions, [(outcomes[question], of_base[question]) for question in questions]
    )
    return ChangedAnswers(
        tuple(own[question]["text"] != other[question]["text"] for question in questions),
        tuple(outcome.cluster for outcome, _ in pairs),
    )

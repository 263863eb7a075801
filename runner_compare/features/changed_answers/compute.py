"""Counts the answers that guessed tokens have changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from runner_compare.model.data import NotPaired, Run
from runner_compare.model.mean_pairs import with_functions
from runner_compare.reader import Reader
from runner_compare.statistics.clustered_share import guaranteed_interval

GUESSES = "generation.speculate"
WHOLE = 10**9  # characters of an answer that are compared: all


@dataclass(frozen=True)
class ChangedAnswers:
    """How many answers to the same questions have another text."""

    is_changed: tuple[bool, ...]
    families: tuple[str | None, ...]  # of the questions; None: they are independent

    @property
    def changed(self) -> int:
        """How many answers have another text."""
        return sum(self.is_changed)

    @property
    def answers(self) -> int:
        """How many answers were compared."""
        return len(self.is_changed)

    @property
    def family_count(self) -> int:
        """How many families the questions come in; 0: they are independent."""
        return 0 if None in self.families else len(set(self.families))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The two-sided 95 % interval of the share of changed answers, in further such families."""
        return guaranteed_interval(self.is_changed, self.families)


@dataclass
class ChangedOfTable:
    """The counts of the rows that only differ in who guesses, by run id."""

    counts: dict[str, ChangedAnswers] = field(default_factory=dict)


def differ_in_guesses(run: Run, base: Run, reader: Reader) -> bool:
    """Whether two runs differ in who guesses, and in nothing else."""
    keys = reader.key_rules.differing_keys([run.params, base.params])
    return bool(keys) and all(key.startswith(GUESSES) for key in keys)


def count_changed(run: Run, base: Run, reader: Reader) -> ChangedAnswers:
    """Count the answers of a run whose texts differ from those of its baseline."""
    outcomes, of_base = reader.of(run), reader.of_baseline(base)
    shared = outcomes.keys() & of_base.keys()
    own, other = (reader.words(side, {*shared}, WHOLE) for side in (run, base))
    known = own.keys() & other.keys()
    if not known:
        raise NotPaired("no answers to the same questions")
    questions = sorted(known)
    pairs = with_functions(questions, [(outcomes[question], of_base[question]) for question in questions])
    return ChangedAnswers(
        tuple(own[question]["text"] != other[question]["text"] for question in questions),
        tuple(outcome.cluster for outcome, _ in pairs),
    )

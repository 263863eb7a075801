"""Several answers to a question: how they vote, and the chance that k of them include a right one
or elect it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from runner_base import ConfigError
from runner_compare.metrics import BY_ANSWERS
from runner_compare.statistics.votes import all_at, majority_at, pass_at, sizes

NAME = re.compile(r"(pass@|maj@|pass\^)(\d+)")
PASS, VOTE, ALL = "pass@", "maj@", "pass^"


class Votes(NamedTuple):
    """How many of a question's answers vote for the right answer, and for each wrong one; the
    others abstain."""

    right: int
    wrong: tuple[int, ...]

    @classmethod
    def of(cls, answers: Iterable[tuple[str | None, bool]]) -> Votes:
        """Count answers, each as what it says and whether that is right; None: it says nothing that
        has a vote."""
        said = [(text.strip(), is_right) for text, is_right in answers if text is not None]
        wrong = Counter(text for text, is_right in said if not is_right)
        return cls(sum(is_right for _, is_right in said), tuple(sorted(wrong.values())))


@dataclass(frozen=True)
class Chance:
    """What k answers to a question come to: `pass@k` (one is right), `maj@k` (they elect it) or
    `pass^k` (all are)."""

    kind: str
    k: int

    @classmethod
    def named(cls, name: str) -> Chance | None:
        """Return the one of this name, such as `maj@8`; None if it is the name of something
        else."""
        match = NAME.fullmatch(name)
        if match is None:
            return None
        if int(match[2]) < 1:
            raise ConfigError(f"give the number of answers, such as {match[1]}4", key=name, code="bad_value")
        return cls(match[1], int(match[2]))

    def of(self, right: int, answers: int, votes: Votes | None) -> float | None:
        """Return that of a question with so many answers; None with fewer than k of them, or if no
        votes are known."""
        if answers < self.k:
            return None
        if self.kind == PASS:
            return pass_at(self.k, answers, right)
        if self.kind == ALL:
            return all_at(self.k, answers, right)
        return None if votes is None else float(majority_at(self.k, answers, votes.right, votes.wrong))


def figures_of(questions: Sequence[tuple[tuple[int, int], Votes | None]]) -> dict[str, float]:
    """Return the metrics of several answers to each question, as jobs of our own have them; empty
    for single ones.

    Each question has its right answers and all of them, and the votes if these are known. Questions
    with unlike numbers of answers have a mean, and no such figures.
    """
    counts = {right[1] or 1 for right, _ in questions}
    most = max(counts, default=1)
    if most == 1:
        return {}
    figures: dict[str, float] = {"answers_each": most}
    for k in sizes(most) if len(counts) == 1 else []:
        for key, name in BY_ANSWERS.items():
            values = [Chance(name.format(""), k).of(*right, votes) for right, votes in questions]
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                figures[f"{key}/{k}"] = fmean(known)
    return figures

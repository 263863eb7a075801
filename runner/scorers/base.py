"""Judges answers that are neither numbers nor letters. A package of somebody else brings one as a plug-in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache

from runner.core import plugins


class Scorer(ABC):
    """Finds the answer in a text, and says whether it is right; `task.scorer` names it."""

    @abstractmethod
    def find(self, text: str) -> str | None:
        """Return the answer in a completion, so written that equal answers are equal texts; None if it has none."""

    def read_gold(self, answer: str) -> str:
        """Return the right answer from that of a row; ValueError with the reason if there is none in it."""
        found = self.find(answer)
        if found is None:
            raise ValueError(f"no answer can be found in {answer[:60]!r}")
        return found

    def is_right(self, answer: str, gold: str) -> bool:
        """Whether an answer that was found is the right one."""
        return answer == gold


@cache
def scorer_of(name: str) -> Scorer:
    """Return the scorer of a plug-in; ConfigError if it cannot be imported."""
    kind: type[Scorer] = plugins.load_class("scorer", name, Scorer)  # type: ignore[type-abstract]
    return kind()

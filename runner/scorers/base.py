"""Judges answers that are neither numbers nor letters: expressions, or what the scorer of a plug-in
reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Scorer(ABC):
    """Finds the answer in a text, and says whether it is right; `task.scorer` names it."""

    @abstractmethod
    def find(self, text: str) -> str | None:
        """Return the answer in a completion, so written that equal answers are equal texts; None if
        it has none."""

    def find_in_cut_off(self, text: str) -> str | None:
        """Return the answer in a completion that was cut off; None if it is not sure to be the last
        word."""
        return self.find(text)

    def read_gold(self, answer: str) -> str:
        """Return the right answer from that of a row; ValueError with the reason if there is none
        in it."""
        found = self.find(answer)
        if found is None:
            raise ValueError(f"no answer can be found in {answer[:60]!r}")
        return found

    def is_right(self, answer: str, gold: str) -> bool:
        """Whether an answer that was found is the right one."""
        return answer == gold

    def why_not(self, answer: str, gold: str) -> str:
        """Say why an answer could not be compared with the right one; empty if it was."""
        return ""

    def close(self) -> None:  # noqa: B027 – most have nothing to let go of
        """Let go of what it holds, at the end of a job."""

    def among(self, answer: str, others: Sequence[str]) -> str:
        """Return the first of other answers that this one is equal to, for which it votes; else
        itself."""
        return answer

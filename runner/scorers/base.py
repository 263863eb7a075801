"""Base class for scorers of answers that are neither numbers nor letters: expressions, or a
plug-in's format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Scorer(ABC):
    """Finds the answer in a text, and decides whether it is right. `task.scorer` selects the scorer."""

    @abstractmethod
    def find(self, text: str) -> str | None:
        """Return the answer in a completion in canonical form, so that equal answers are equal texts. None
        without an answer.
        """

    def find_in_truncated(self, text: str) -> str | None:
        """Return the answer in a truncated completion. None if it may not be the final answer."""
        return self.find(text)

    def read_gold(self, answer: str) -> str:
        """Return the right answer from a row's answer. Raises ValueError with the reason if it has none."""
        found = self.find(answer)
        if found is None:
            raise ValueError(f"no answer found in {answer[:60]!r}")
        return found

    def is_right(self, answer: str, gold: str) -> bool:
        """Return whether an extracted answer is the right one."""
        return answer == gold

    def explain_comparison_failure(self, answer: str, gold: str) -> str:
        """Return why an answer could not be compared with the right one. Empty if it was."""
        return ""

    def close(self) -> None:  # noqa: B027 – most have nothing to let go of
        """Release resources at the end of a job."""

    def find_equal_answer(self, answer: str, others: Sequence[str]) -> str:
        """Return the first of the other answers that equals this one, for which it votes; else this
        answer.
        """
        return answer

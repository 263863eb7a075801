"""Base class of scorers, which judge answers other than numbers and letters, such as expressions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Scorer(ABC):
    """Extracts the answer from a text and decides whether it is right. `task.scorer` selects the scorer."""

    @abstractmethod
    def find(self, text: str) -> str | None:
        """Return the answer found in a completion, in canonical form. None if there is no answer."""

    def find_in_truncated(self, text: str) -> str | None:
        """Return the answer found in a truncated completion. None if there is none or it might be
        incomplete.
        """
        return self.find(text)

    def read_gold(self, gold_text: str) -> str:
        """Return the gold answer found in a data set's answer text. Raises ValueError if there is none."""
        found = self.find(gold_text)
        if found is None:
            raise ValueError(f"no answer found in {gold_text[:60]!r}")
        return found

    def is_right(self, answer: str, gold: str) -> bool:
        """Return whether an extracted answer equals the gold answer."""
        return answer == gold

    def explain_comparison_failure(self, answer: str, gold: str) -> str:
        """Return the reason why an answer could not be compared with the gold answer. Empty if it could."""
        return ""

    def close(self) -> None:  # noqa: B027 – most have nothing to let go of
        """Release resources at the end of a job."""

    def find_equal_answer(self, answer: str, other_answers: Sequence[str]) -> str:
        """Return the first of `other_answers` that equals this answer, otherwise this answer."""
        return answer

"""task.scorer=last_word: the answer is the last word."""

from __future__ import annotations

import re

from runner.scorers.base import Scorer


class LastWord(Scorer):
    """Capital letters do not matter."""

    def find(self, text: str) -> str | None:
        """Return the last word in small letters."""
        words = re.findall(r"[^\W\d_]+", text.lower())
        return words[-1] if words else None

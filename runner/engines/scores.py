"""What the tokens of a continuation come to, as far as they are scored."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TokenScores:
    """One entry for each token; logarithms are natural ones."""

    logprobs: list[float] = field(default_factory=list)
    greedy: list[bool] = field(default_factory=list)  # whether the model would have said the token itself
    top: list[list[tuple[int, float]]] = field(default_factory=list)  # what it would rather have said in its place
    beside: list[list[float]] = field(default_factory=list)  # of the tokens that were asked for beside it
    least: list[float] = field(default_factory=list)  # of the least probable token in its place

    def clear(self) -> None:
        """Forget what is scored so far."""
        self.logprobs, self.greedy, self.top, self.beside, self.least = [], [], [], [], []

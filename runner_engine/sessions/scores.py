"""Log-probabilities and scores of the tokens of a continuation."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TokenScores:
    """Scores of a continuation, with one entry per scored token. Logarithms are natural."""

    logprobs: list[float] = field(default_factory=list)
    # whether the token is the model's most probable one
    greedy: list[bool] = field(default_factory=list)
    # the most probable tokens in its place
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    # drawn from all others
    drawn_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    # of the request's score_token_ids
    score_token_logprobs: list[list[float]] = field(default_factory=list)
    # of the least probable token in its place
    min_logprobs: list[float] = field(default_factory=list)

    def clear(self) -> None:
        self.logprobs, self.greedy, self.top_logprobs = [], [], []
        self.drawn_logprobs, self.score_token_logprobs, self.min_logprobs = [], [], []

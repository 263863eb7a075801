"""Numbers that each sample has besides its verdict: the tokens it took, its length, its cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner.compare.data import Answers, QuestionOutcome, question_of
from runner.core.metrics import Better
from runner.core.result import Sample
from runner.scorers.thinking import answer_tokens, mean_tokens, thinking_tokens
from runner.store.jobs import read_samples

OF_SAMPLES: dict[str, Callable[[Sample], float | None]] = {  # of several answers to a question: the mean
    "new_tokens": lambda it: sum(one.tokens for one in it.answers) / len(it.answers),
    "characters": lambda it: sum(len(one.text) for one in it.answers) / len(it.answers),
    "thinking_tokens": lambda it: mean_tokens(thinking_tokens, it.answers),
    "answer_tokens": lambda it: mean_tokens(answer_tokens, it.answers),
    "cost_usd": lambda it: it.cost_usd,
}
BETTER = {"cost_usd": Better.lower}  # of tokens and characters, neither more nor fewer is better


def read_numbers(path: Path, name: str) -> Answers:
    """Return the number of each answered question; EvidenceError with file and line if a sample was changed."""
    return {
        question_of(it): QuestionOutcome(False, it.prompt_sha256, it.cluster, number=OF_SAMPLES[name](it))
        for it in read_samples(path).values()
        if it.answer.verdict is not None and not it.failed
    }

"""Estimates how long the answers of a finished job took, from the job's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AnswerTimes:
    """Prefill and decode times of a job's answers, in seconds.

    Other jobs may have run in the same process before.
    """

    n: float  # completions
    prompts_s: float  # of the tokens that prompts have of their own
    beginnings_s: float  # of what several prompts begin with: it is computed once
    decode_s: float

    @property
    def seconds_per_completion(self) -> float:
        """Seconds that one additional completion takes."""
        return (self.prompts_s + self.decode_s) / self.n

    @property
    def total_seconds(self) -> float:
        return self.prompts_s + self.beginnings_s + self.decode_s


def estimate_answer_times(metrics: Mapping[str, float]) -> AnswerTimes | None:
    """Estimate the times of a job's answers from its metrics; None if no times were measured.

    The measured prefill speed counts computed tokens. Tokens of a shared prefix are computed
    once, although each prompt includes them.
    """
    # a team's question takes several completions
    n = metrics.get("calls", metrics.get("n_all", metrics.get("n")))
    prefill, decode = metrics.get("prefill_tok_per_s"), metrics.get("decode_tok_per_s", 0.0)
    new_tokens = metrics.get("new_tokens", 0.0)  # likelihoods have none
    prompt_tokens = metrics.get("prompt_tokens", metrics.get("computed_prompt_tokens"))
    if not n or not prefill or prompt_tokens is None:
        return None
    n *= metrics.get("answers_each", 1.0)
    decoded = max(new_tokens - n, 0.0)  # the first token of an answer comes from its prompt
    if decoded and not decode:
        return None
    own = max(prompt_tokens - metrics.get("shared_prompt_tokens", 0.0), 0.0)
    # earlier versions did not count them
    beginnings = max(metrics.get("computed_prompt_tokens", own) - own, 0.0)
    return AnswerTimes(n, own / prefill, beginnings / prefill, decoded / decode if decoded else 0.0)

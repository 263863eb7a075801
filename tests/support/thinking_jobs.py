"""Jobs of a model that thinks in a store: their texts have tags and are read as any model's, and
the truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stores import Store

from runner.records.jobs import read_samples
from runner.scorers.totals import total_token_counts
from runner_base.result import Answer, FinishReason, Sample
from runner_base.thought_tokens import compute_thinking_metrics

PROMPT_TOKENS = 9  # as a Store writes them
ANSWER_TOKENS = 3


def thought(words: int, is_spent: bool, right: bool) -> Answer:
    """Return an answer after a thought of so many tokens, ended by the model or by its budget."""
    text = f"<think>{'so ' * words}</think>#### {42 if right else 7}"
    return Answer.from_text(
        text,
        [1] * (words + ANSWER_TOKENS),
        FinishReason.stop,
        is_spent=is_spent,
        thinking_tokens=words,
        answer_tokens=ANSWER_TOKENS,
    )


def thinking_job(
    store: Store,
    experiment: str,
    name: str,
    solved: Sequence[bool],
    words: Sequence[int] | None,
    budget: int | None = None,
    *,
    config: dict[str, str] | None = None,
) -> Path:
    """Log a job whose answers have thoughts of so many tokens: at most the budget; None: its model
    does not think."""
    keys = {"generation.thinking_tokens": "null" if budget is None else str(budget)} | (config or {})
    metrics = {
        "prefill_tok_per_s": 1000.0,
        "decode_tok_per_s": 100.0,
        "computed_prompt_tokens": 9.0 * len(solved),
    }
    folder = store.job(
        experiment, name, keys, list(solved), metrics=metrics | _totals(_samples(solved, words, budget))
    )
    samples = folder / "samples.jsonl"
    read = list(read_samples(samples).values())
    made = _samples(solved, words, budget, read)
    samples.write_text("".join(it.to_json() + "\n" for it in made))
    return folder


def _samples(
    solved: Sequence[bool],
    words: Sequence[int] | None,
    budget: int | None,
    read: Sequence[Sample] | None = None,
) -> list[Sample]:
    plain = Answer("#### 42", [1] * ANSWER_TOKENS, FinishReason.stop)
    made = []
    for at, right in enumerate(solved):
        sample = read[at] if read else Sample(plain, "", PROMPT_TOKENS, 0.5, index=at)
        answer = plain if words is None else thought(words[at], words[at] == budget, right)
        verdict, extracted = sample.answer.verdict, sample.answer.extracted
        made.append(replace(sample, answer=replace(answer, verdict=verdict, extracted=extracted)))
    return made


def _totals(samples: list[Sample]) -> dict[str, float]:
    return {**total_token_counts(samples), **compute_thinking_metrics(samples)}

"""Numbers that each sample has besides its verdict: the tokens it took, its cost, its chance of a
right vote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from runner.config.extractors import Extractor
from runner.records.jobs import read_samples
from runner_base import Answer, FinishReason, Sample, Verdict
from runner_base.thought_tokens import answer_tokens, mean_tokens, thinking_tokens
from runner_compare import Answers, Better, Chance, QuestionOutcome, Votes, question_of

OF_SAMPLES: dict[str, Callable[[Sample], float | None]] = {  # of several answers to a question: the mean
    "new_tokens": lambda sample: sum(answer.tokens for answer in sample.answers) / len(sample.answers),
    "characters": lambda sample: sum(len(answer.text) for answer in sample.answers) / len(sample.answers),
    "thinking_tokens": lambda sample: mean_tokens(thinking_tokens, sample.answers),
    "answer_tokens": lambda sample: mean_tokens(answer_tokens, sample.answers),
    "cost_usd": lambda sample: sample.cost_usd,
}
# of tokens and characters, neither more nor fewer is better
NUMBERS = {name: Better.lower if name == "cost_usd" else Better.neither for name in OF_SAMPLES}


def read_numbers(path: Path, name: str, ways: Sequence[str] = ()) -> Answers:
    """Return the number of each answered question; EvidenceError with file and line if a sample was
    changed.

    `ways` are the extractors or scorers by which a run was judged, of which the first that a sample
    has counts.
    """
    chance = Chance.named(name)
    number_of = OF_SAMPLES[name] if chance is None else partial(chance_of, chance, ways)
    return {
        question_of(sample): QuestionOutcome.of_number(sample, number_of(sample))
        for sample in read_samples(path).values()
        if sample.answer.verdict is not None and not sample.failed and not (chance and sample.left_out)
    }


def chance_of(chance: Chance, ways: Sequence[str], sample: Sample) -> float | None:
    """Return the chance that k of a question's answers include a right one, or elect it."""
    right, answers = sample.right_answers
    if not answers:
        right, answers = int(sample.solved), 1
    said = [_vote_of(choice, ways) for choice in sample.choices or [sample.answer]]
    return chance.of(right, answers, Votes.of(said))


def _vote_of(answer: Answer, ways: Sequence[str]) -> tuple[str | None, bool]:
    """Return what an answer votes for, and whether that is right; one that was cut off has no
    vote."""
    found = answer.extracted or {}
    said = next((found[way] for way in ways if way in found), next(iter(found.values()), None))
    is_cut_off = answer.finish_reason is not FinishReason.stop and found.get(Extractor.strict, said) is None
    has_vote = answer.verdict in (Verdict.correct, Verdict.wrong) and not is_cut_off
    return said if has_vote else None, answer.verdict is Verdict.correct

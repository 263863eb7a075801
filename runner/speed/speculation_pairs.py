"""Runs each batch with and without speculative decoding in alternation, so that other load affects both
equally.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from runner_engine import Completion, EngineStats, Request

OFF_SPEED, GAIN = "off_decode_tok_per_s", "speculation_gain"
ACCEPTED, DIFFERING = "acceptance_share", "differing_answers"
GAINS = (OFF_SPEED, GAIN, ACCEPTED, DIFFERING)
SPEED = "decode_tok_per_s"


class Batch(Protocol):
    """Interface of a finished batch with its speeds."""

    completions: list[Completion]
    spent: EngineStats

    @property
    def speed(self) -> dict[str, float]:
        """Speeds by metric name."""


Timed = TypeVar("Timed", bound=Batch)


def run_with_and_without_speculation(
    requests: Sequence[Request], round_number: int, run_batch: Callable[[Sequence[Request]], Timed]
) -> tuple[Timed, dict[str, float]]:
    """Run a batch with and without speculative decoding, in alternating order.

    Returns the run with speculation, and the gain metrics.
    """
    plain = [replace(request, is_guessed=False) for request in requests]
    if round_number % 2:
        off, guessed = run_batch(plain), run_batch(requests)
    else:
        guessed, off = run_batch(requests), run_batch(plain)
    if SPEED not in guessed.speed or not off.speed.get(SPEED):
        return guessed, {}
    speed, off_speed = guessed.speed[SPEED], off.speed[SPEED]
    tokens, off_tokens = (_answer_tokens(one.completions) for one in (guessed, off))
    differing = sum(off_tokens[key] != ids for key, ids in tokens.items())
    share = guessed.spent.draft_acceptance_metrics.get(ACCEPTED)
    figures = {OFF_SPEED: off_speed, GAIN: speed / off_speed, DIFFERING: float(differing)}
    return guessed, figures | ({} if share is None else {ACCEPTED: share})


def _answer_tokens(completions: Sequence[Completion]) -> dict[object, Sequence[int]]:
    return {(done.id, done.choice): done.answer.token_ids for done in completions}

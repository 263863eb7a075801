"""Batches with the guesses of generation.speculate and without them, by turns on the same prompts:
what else the machine does at that time then slows both alike."""

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
    """A batch that was run once."""

    completions: list[Completion]
    spent: EngineStats

    @property
    def speed(self) -> dict[str, float]:
        """Its speeds, by their names."""


Timed = TypeVar("Timed", bound=Batch)


def run_by_turns(
    requests: Sequence[Request], number: int, run: Callable[[Sequence[Request]], Timed]
) -> tuple[Timed, dict[str, float]]:
    """Run a batch with guesses and without them, in every second round the other way round; return
    the one with guesses, and what they gained."""
    plain = [replace(request, is_guessed=False) for request in requests]
    if number % 2:
        off, guessed = run(plain), run(requests)
    else:
        guessed, off = run(requests), run(plain)
    if SPEED not in guessed.speed or not off.speed.get(SPEED):
        return guessed, {}
    speed, off_speed = guessed.speed[SPEED], off.speed[SPEED]
    tokens, off_tokens = (_tokens(one.completions) for one in (guessed, off))
    differing = sum(off_tokens[key] != ids for key, ids in tokens.items())
    share = guessed.spent.acceptance.get(ACCEPTED)
    figures = {OFF_SPEED: off_speed, GAIN: speed / off_speed, DIFFERING: float(differing)}
    return guessed, figures | ({} if share is None else {ACCEPTED: share})


def _tokens(completions: Sequence[Completion]) -> dict[object, Sequence[int]]:
    return {(done.id, done.choice): done.answer.token_ids for done in completions}

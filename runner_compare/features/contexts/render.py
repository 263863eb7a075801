"""Says up to how much context a model predicts the same tokens better: on the card of a job, and in
a comparison."""

from __future__ import annotations

from collections.abc import Mapping

from runner_compare.statistics.contexts import CELL, Step, contexts_of, helping, steps_of
from runner_compare.statistics.ratios import MIN_TEXTS


def context_sentence(figures: Mapping[str, float]) -> str:
    """Return the sentence about a job's contexts; empty if it has fewer than two."""
    lengths = contexts_of(figures)
    if len(lengths) < 2:
        return ""
    texts = int(figures[f"n/{CELL}{lengths[0]}"])
    steps = steps_of(figures)
    if not steps:
        return f"too few texts to test whether more context helps: {texts}, at least {MIN_TEXTS}"
    helpful = helping(steps)
    rest = steps[len(helpful) :]
    if not helpful:
        found = "more context hurts" if rest[0].hurts else "no gain from more context is shown"
        return f"{found} ({_change(rest[0])}, over {texts} texts)"
    last = helpful[-1]
    found = f"more context helps up to {last.longer:,} tokens ({_change(last)}, over {texts} texts)"
    if not rest:
        return f"{found}, the longest that was tried"
    beyond = "more hurts" if rest[0].hurts else "of more no gain is shown"
    return f"{found}; {beyond} ({_change(rest[0])})"


def _change(step: Step) -> str:
    gain, low, high = (_signed(value) for value in (step.gain, step.low, step.high))
    return f"from {step.shorter:,} to {step.longer:,}: gain {gain} nats/token, 95 % interval [{low}, {high}]"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")

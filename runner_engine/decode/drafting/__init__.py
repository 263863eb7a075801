"""Guesses at every step of every row, by one way of guessing. These names are what others need of
this folder; a way is a module with a class `Way` by contract.py, which DRAFTERS names."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from runner_engine.decode.drafting.contract import Drafter
from runner_engine.decode.drafting.steady import Steady
from runner_engine.decode.passes import Forward
from runner_engine.decode.tokens import Guesses, Speculation
from runner_engine.sessions import EngineStats
from runner_engine.settings.speculation import Guesser, Speculate

__all__ = [  # noqa: RUF022 - by what they are for
    "guesses_of",  # what guesses the next tokens, as generation.speculate says
    "Drafter",  # what a way of guessing does: propose, forget
    "Steady",  # lets one guess for every row at each step, and counts how much was right
]

DRAFTERS = {  # the module of each way
    Guesser.ngram: "ngram",
    Guesser.draft: "draft_model",
    Guesser.mtp: "own_head",
}


def guesses_of(
    speculate: Speculate, stats: EngineStats, draft: Callable[[], Forward] | None = None
) -> Guesses:
    """Return what guesses the next tokens; draft: gives the passes of a draft model that is
    loaded."""
    if not speculate.is_steady:
        return Speculation(stats, speculate.kind == Guesser.auto)
    module = import_module(f"{__name__}.{DRAFTERS[speculate.kind]}")
    drafter: Drafter = module.Way(stats, draft)
    return Steady(stats, drafter, speculate.tokens)

"""Drafters for speculative decoding. DRAFTERS maps each drafter's name to a module with one drafter class."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from runner_engine.decode.drafting.contract import Drafter
from runner_engine.decode.drafting.drafter_speculator import DrafterSpeculator
from runner_engine.decode.passes import Forward
from runner_engine.decode.tokens import NgramSpeculator, Speculator
from runner_engine.sessions import EngineStats
from runner_engine.settings.speculation import DrafterKind, SpeculationConfig

__all__ = [  # noqa: RUF022 - by what they are for
    "create_speculator",  # what guesses the next tokens, as generation.speculate says
    "Drafter",  # what a way of guessing does: propose, forget
    "DrafterSpeculator",  # lets one guess for every row at each step, and counts how much was right
]

DRAFTERS = {  # the module of each way
    DrafterKind.ngram: "ngram",
    DrafterKind.draft: "draft_model",
    DrafterKind.mtp: "mtp_head",
}


def create_speculator(
    config: SpeculationConfig, stats: EngineStats, load_draft_model: Callable[[], Forward] | None = None
) -> Speculator:
    """Create the speculator that the config generation.speculate selects.

    load_draft_model: loads the draft model and returns its forward passes.
    """
    if not config.drafts_every_step:
        return NgramSpeculator(stats, config.kind == DrafterKind.auto)
    module = import_module(f"{__name__}.{DRAFTERS[config.kind]}")
    drafter: Drafter = module.TokenDrafter(stats, load_draft_model)
    return DrafterSpeculator(stats, drafter, config.tokens)

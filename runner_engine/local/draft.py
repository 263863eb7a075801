"""Loads a draft model, or the model's own head, beside the model whose next tokens it guesses."""

from __future__ import annotations

from typing import Any

import torch

from runner_engine.checkpoints.draft import check_tokens, draft_of
from runner_engine.checkpoints.own_head import ALONE
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.local.own_head import OwnHead
from runner_engine.models.load import Loaded
from runner_engine.settings.speculation import Guesser, Speculate


def draft_engine(engine: Any, resolved: ResolvedModel) -> Any:
    """Return what guesses beside the engine of a model: another engine, or the model's own head;
    None where nothing of both does."""
    draft = draft_of(resolved)
    if draft is None:
        return None
    is_head = draft.spec.first_layers == ALONE
    return OwnHead(engine, draft) if is_head else type(engine)(draft)


def load_draft(how: Speculate, loaded: Loaded, draft: Any) -> dict[str, str]:
    """Load the draft's engine, if there is one, and return the fact of who guesses; the number of
    threads stays the model's."""
    if not how.is_steady:
        return {}
    if draft is not None:
        threads = torch.get_num_threads()
        of_draft = draft.load().metrics
        torch.set_num_threads(threads)
        loaded.metrics["draft_mib"] = of_draft["weight_mib"]
    if draft is not None and how.kind is not Guesser.mtp:
        own, its = (one.tokenizer.get_vocab() for one in (loaded, draft.loaded))
        check_tokens(how, *({number: text for text, number in one.items()} for one in (own, its)))
    return {"speculation": how.words}

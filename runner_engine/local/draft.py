"""Loads a draft model beside the model whose next tokens it guesses."""

from __future__ import annotations

from typing import Any

import torch

from runner_engine.checkpoints.draft import check_tokens
from runner_engine.models.load import Loaded
from runner_engine.settings.speculation import Speculate


def load_draft(how: Speculate, loaded: Loaded, draft: Any) -> dict[str, str]:
    """Load the draft's engine, if there is one, and return the fact of who guesses; the number of
    threads stays the model's."""
    if not how.is_steady:
        return {}
    if draft is not None:
        threads = torch.get_num_threads()
        of_draft = draft.load().metrics
        torch.set_num_threads(threads)
        own, its = (one.tokenizer.get_vocab() for one in (loaded, draft.loaded))
        check_tokens(how, *({number: text for text, number in one.items()} for one in (own, its)))
        loaded.metrics["draft_mib"] = of_draft["weight_mib"]
    return {"speculation": how.words}

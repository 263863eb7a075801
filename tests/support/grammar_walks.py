"""Random walks through grammars: each next token is any of those that may come."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from runner_engine.grammars import GrammarCache, GrammarState

CLOSING = '"}])>\n'  # walks that prefer these end soon


def grammars_of(tokenizer: Any) -> GrammarCache:
    """Return the grammars of a tokenizer with its own end token."""
    return GrammarCache(tokenizer, len(tokenizer), frozenset([tokenizer.eos_token_id]))


def begun(grammars: GrammarCache, text: str) -> GrammarState:
    """Return the beginning of an answer without thinking."""
    held = grammars.compile_grammar_to_initial_state(text)
    held.begins_at = 0
    return held


def allowed(held: GrammarState) -> list[int]:
    """Return the tokens that may come next."""
    mask = held.allowed_token_mask()
    assert mask is not None, held.error
    return [int(one) for one in np.flatnonzero(np.unpackbits(mask, bitorder="little"))]


def walk(
    grammars: GrammarCache, tokenizer: Any, text: str, drawn: random.Random, most: int = 300
) -> str | None:
    """Return a text of a grammar; None if it has not ended after so many tokens."""
    held, tokens = begun(grammars, text), list[int]()
    for _ in range(most):
        possible = allowed(held)
        if tokenizer.eos_token_id in possible:
            return str(tokenizer.decode(tokens))
        closing = [one for one in possible if any(it in tokenizer.decode([one]) for it in CLOSING)]
        tokens.append(drawn.choice(closing if closing and drawn.random() < 0.5 else possible))
        held.update(tokens)
        assert held.error is None, held.error
        if held.is_complete:
            return str(tokenizer.decode(tokens))
    return None


def is_of(grammars: GrammarCache, tokenizer: Any, text: str, of: str) -> bool:
    """Whether a text is of a grammar."""
    held = begun(grammars, of)
    held.update(tokenizer(text, add_special_tokens=False)["input_ids"])
    if held.error is not None:
        return False
    return held.is_complete or tokenizer.eos_token_id in allowed(held)

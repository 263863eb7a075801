"""Constrained decoding: grammars limit the tokens of an answer."""

from runner_engine.grammars.grammar_cache import GrammarCache
from runner_engine.grammars.grammar_state import GrammarState, mask_disallowed_tokens

__all__ = [
    "GrammarCache",  # grammars for one tokenizer: begin
    "GrammarState",  # where a row stands in its grammar
    "mask_disallowed_tokens",  # leaves rows of logits the tokens that their grammars allow
]

"""Which token ids a model has an embedding for.

A tokenizer may know more tokens: a text-only checkpoint may still have the tokens for images, and a
fine-tuned one may have a new token for padding. Most of these never occur in a prompt, so they are
only noted when the model loads. A prompt that contains one is rejected before a pass, which would
read memory beyond the embedding. Only a tokenizer that puts such a token into every prompt is
rejected before the load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner_base import ConfigError, few
from runner_base.notes import Note, note
from runner_engine.models.tokenizing import ids_of


def rows_of(model: Any) -> int:
    """Return how many tokens a loaded model has embeddings for."""
    rows: int = model.config.get_text_config().vocab_size
    return min(rows, getattr(model.get_input_embeddings(), "num_embeddings", rows))


def check_ids(ids: Sequence[int], rows: float, tokenizer: Any, named: str) -> None:
    """Reject token ids that the model has no embedding for."""
    if ids and not (min(ids) >= 0 and max(ids) < rows):
        invalid = next(identifier for identifier in ids if not 0 <= identifier < rows)
        raise ConfigError(
            f"{invalid} is not a token of {named}: its ids go from 0 to {rows - 1}{_origin(invalid, tokenizer)}",
            code="bad_value",
        )


def check_tokenizer(tokenizer: Any, rows: int, named: str) -> list[Note]:
    """Reject a tokenizer whose every prompt would be rejected; return a note on tokens that no
    prompt may contain."""
    # what it puts around every text
    check_ids(ids_of(tokenizer, "", True, named), rows, tokenizer, named)
    if tokenizer.vocab_size <= rows and all(number < rows for number in tokenizer.added_tokens_decoder):
        return []
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    tokens = few([f"{token} ({number})" for number, token in beyond])
    return [note("tokens_beyond_model", count=len(beyond), known=rows, tokens=tokens)]


def padding_of(tokenizer: Any, rows: float) -> int:
    """Return the id that pads prompts; any id with an embedding will do."""
    number: int | None = tokenizer.pad_token_id
    return number if number is not None and number < rows else 0


def _origin(invalid: int, tokenizer: Any) -> str:
    """Say which of the tokenizer's tokens it is, if it is one."""
    if not 0 <= invalid < len(tokenizer) and invalid not in tokenizer.added_tokens_decoder:
        return ""
    return (
        f", one for each row of its embedding, and the tokenizer has {len(tokenizer)} tokens, of which this is "
        f"{tokenizer.convert_ids_to_tokens(invalid)!r}: use the tokenizer that belongs to the weights, or leave the "
        "token out of the prompt"
    )

"""Checks that the model has an embedding for each token id.

A tokenizer may know more tokens: a text-only checkpoint may still have the tokens for images, and a
fine-tuned one may have a new token for padding. Most of these never occur in a prompt, so the load
only reports a note. A prompt that contains one is rejected before a forward pass, which would read
memory beyond the embedding. Only a tokenizer that puts such a token into every prompt is rejected
before the load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner_base import ConfigError, join_first_names
from runner_base.notes import Note, note
from runner_engine.models.tokenization import encode_text


def count_token_ids_with_embedding(model: Any) -> int:
    """Return how many token ids have an embedding in a loaded model."""
    rows: int = model.config.get_text_config().vocab_size
    return min(rows, getattr(model.get_input_embeddings(), "num_embeddings", rows))


def check_token_ids(token_ids: Sequence[int], num_embeddings: float, tokenizer: Any, model_name: str) -> None:
    """Raise ConfigError for token ids without an embedding in the model."""
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < num_embeddings):
        invalid = next(identifier for identifier in token_ids if not 0 <= identifier < num_embeddings)
        raise ConfigError(
            (
                f"token id {invalid} is invalid: {model_name} has token ids from 0 to "
                f"{num_embeddings - 1}{_describe_invalid_token(invalid, tokenizer)}"
            ),
            code="bad_value",
        )


def check_tokenizer_vocabulary(tokenizer: Any, num_embeddings: int, model_name: str) -> list[Note]:
    """Raise ConfigError if a tokenizer adds tokens without an embedding to every prompt.

    Returns a note on other tokens without an embedding.
    """
    # what it puts around every text
    check_token_ids(encode_text(tokenizer, "", True, model_name), num_embeddings, tokenizer, model_name)
    if tokenizer.vocab_size <= num_embeddings and all(
        number < num_embeddings for number in tokenizer.added_tokens_decoder
    ):
        return []
    beyond = sorted(
        (number, token) for token, number in tokenizer.get_vocab().items() if number >= num_embeddings
    )
    tokens = join_first_names([f"{token} ({number})" for number, token in beyond])
    return [note("tokens_beyond_model", count=len(beyond), known=num_embeddings, tokens=tokens)]


def choose_padding_id(tokenizer: Any, num_embeddings: float) -> int:
    """Return the token id for padding, or 0 if the tokenizer's own has no embedding in the model."""
    number: int | None = tokenizer.pad_token_id
    return number if number is not None and number < num_embeddings else 0


def _describe_invalid_token(token_id: int, tokenizer: Any) -> str:
    """Explain why a token id has no embedding, as the end of an error message."""
    if not 0 <= token_id < len(tokenizer) and token_id not in tokenizer.added_tokens_decoder:
        return ""
    return (
        f", but the tokenizer has {len(tokenizer)} tokens. The token is "
        f"{tokenizer.convert_ids_to_tokens(token_id)!r}. Use the tokenizer that belongs to the weights, "
        "or omit the token from the prompt"
    )

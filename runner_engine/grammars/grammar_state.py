"""Tracks the position of an answer in its grammar, and the tokens that the grammar allows next.

The state follows the sequence's own tokens, so that a requeued sequence continues
correctly. Disallowed tokens are masked in the logits before penalties and sampling. The
other tokens keep their proportions, and the random numbers are those that the sequence
draws anyway.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from runner_base.notes import Note, note

MOST_MASK_S = 0.5  # of CPU time, which the engine's step waits for
TOO_COMPLEX = note("schema_too_complex")


def explain_no_allowed_token(library_error: str) -> Note | None:
    """Convert llguidance's error message to a note on why the grammar allows no next token.

    None if the grammar is not the reason but an accepted token that does not match it.
    """
    if library_error.startswith("NoExtension"):
        return note("no_text_fits")
    return None if "doesn't satisfy the grammar" in library_error else TOO_COMPLEX


class GrammarState:
    """The position that one answer has reached in its grammar."""

    def __init__(self, matcher: Any, num_mask_words: int) -> None:
        self._matcher, self._words = matcher, num_mask_words
        self.begins_at: int | None = None  # tokens before the answer; None: it has not begun
        self._seen = 0  # tokens of the answer that were looked at
        self.error: Note | None = None  # why no more can be said
        self.is_of_request = False  # whether the error comes from the grammar that was requested

    @property
    def has_started(self) -> bool:
        """Whether the answer has started, so that the grammar limits the next token."""
        return self.begins_at is not None

    def copy_initial_state(self) -> GrammarState:
        matcher = self._matcher.deep_copy()
        matcher.reset()
        return GrammarState(matcher, self._words)

    def update(self, tokens: Sequence[int]) -> None:
        if self.begins_at is None or self.error is not None:
            return
        new = tokens[self.begins_at + self._seen :]
        self._seen += len(new)
        if new and not self._matcher.consume_tokens(list(new)):
            self._store_grammar_matcher_error()

    @property
    def is_complete(self) -> bool:
        """Whether the answer is complete, so that the grammar allows no further token."""
        return self.has_started and self.error is None and bool(self._matcher.is_stopped())

    def allowed_token_mask(self) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        """Return a bit mask of the tokens that the grammar allows next, or None if the grammar has failed."""
        words = np.zeros(self._words, dtype=np.uint32)
        if self.error is None:
            started = time.thread_time()
            self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
            if self._matcher.is_error():
                self._store_grammar_matcher_error()
            elif time.thread_time() - started > MOST_MASK_S:
                self.error, self.is_of_request = TOO_COMPLEX, True
        return None if self.error is not None else words.view(np.uint8)

    def _store_grammar_matcher_error(self) -> None:
        reason = explain_no_allowed_token(str(self._matcher.get_error()))
        self.is_of_request = reason is not None
        self.error = note("grammar_left", reason=reason or note("token_does_not_fit"))


def mask_disallowed_tokens(logits: torch.Tensor, grammar_states: Mapping[int, GrammarState]) -> None:
    """Set the logits [B, V] of tokens that a sequence's grammar disallows to -infinity.

    A sequence whose grammar has failed gets NaN, which ends it with an error.
    """
    if not grammar_states:
        return
    table = _build_logit_bias_table(logits.dtype)
    with torch.inference_mode():  # in which the logits were made
        for row, one in grammar_states.items():
            mask = one.allowed_token_mask()
            if mask is None:
                logits[row].fill_(math.nan)
                continue
            bias = torch.from_numpy(table.take(mask, axis=0).reshape(-1)).view(logits.dtype)
            width = min(len(bias), logits.shape[1])
            logits[row, :width] += bias[:width].to(logits.device, non_blocking=True)
            logits[row, width:].fill_(-math.inf)


@lru_cache(maxsize=4)
def _build_logit_bias_table(dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """Build a table with the logit biases of 8 tokens for each byte value of a token mask.

    Allowed tokens get 0, others -infinity.

    The biases have the logits' dtype, so that adding them reads and writes no more than the
    logits.
    """
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    values = torch.tensor([-math.inf, 0.0], dtype=dtype).view(whole).numpy()
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return np.ascontiguousarray(values[bits])

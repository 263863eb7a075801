"""Where a row stands in its grammar, and the tokens that may come next.

The grammar follows the row's own tokens, so that a row that memory has set back goes on as it was.
What may not come is taken out of the logits, before penalties and sampling: the others keep their
proportions, and random numbers are those that the row draws anyway.
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


def why_no_token(error: str) -> Note | None:
    """Return why no token can come next, from the library's error, which quotes its state; None if
    the grammar is not the reason, but a token that was taken and does not fit."""
    if error.startswith("NoExtension"):
        return note("no_text_fits")
    return None if "doesn't satisfy the grammar" in error else TOO_COMPLEX


class Held:
    """An answer that must be of a grammar."""

    def __init__(self, matcher: Any, words: int) -> None:
        self._matcher, self._words = matcher, words
        self.begins_at: int | None = None  # tokens before the answer; None: it has not begun
        self._seen = 0  # tokens of the answer that were looked at
        self.error: Note | None = None  # why no more can be said
        self.is_of_request = False  # whether the error comes from the grammar that was requested

    @property
    def has_begun(self) -> bool:
        """Whether the answer has begun, so that it holds the next token."""
        return self.begins_at is not None

    def at_start(self) -> Held:
        """Return where the answer stood before its first token."""
        matcher = self._matcher.deep_copy()
        matcher.reset()
        return Held(matcher, self._words)

    def follow(self, tokens: Sequence[int]) -> None:
        """Look at a row's new tokens."""
        if self.begins_at is None or self.error is not None:
            return
        new = tokens[self.begins_at + self._seen :]
        self._seen += len(new)
        if new and not self._matcher.consume_tokens(list(new)):
            self._fail()

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow what is of the grammar."""
        return self.has_begun and self.error is None and bool(self._matcher.is_stopped())

    def mask(self) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        """Return which tokens may come next, a bit for each; None if the grammar has failed."""
        words = np.zeros(self._words, dtype=np.uint32)
        if self.error is None:
            started = time.thread_time()
            self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
            if self._matcher.is_error():
                self._fail()
            elif time.thread_time() - started > MOST_MASK_S:
                self.error, self.is_of_request = TOO_COMPLEX, True
        return None if self.error is not None else words.view(np.uint8)

    def _fail(self) -> None:
        reason = why_no_token(str(self._matcher.get_error()))
        self.is_of_request = reason is not None
        self.error = note("grammar_left", reason=reason or note("token_does_not_fit"))


def leave_allowed(logits: torch.Tensor, held: Mapping[int, Held]) -> None:
    """Leave these rows of logits [B, V] the tokens that their grammars allow.

    A row whose grammar has failed is left no numbers, which ends it in an error.
    """
    if not held:
        return
    table = _bias_of_bytes(logits.dtype)
    with torch.inference_mode():  # in which the logits were made
        for row, one in held.items():
            mask = one.mask()
            if mask is None:
                logits[row].fill_(math.nan)
                continue
            bias = torch.from_numpy(table.take(mask, axis=0).reshape(-1)).view(logits.dtype)
            width = min(len(bias), logits.shape[1])
            logits[row, :width] += bias[:width].to(logits.device, non_blocking=True)
            logits[row, width:].fill_(-math.inf)


@lru_cache(maxsize=4)
def _bias_of_bytes(dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """Return the bits of what is added for each value of eight bits: 0 for a token that may come,
    else -infinity. In the logits' own format, a sum reads and writes no more than they do."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    values = torch.tensor([-math.inf, 0.0], dtype=dtype).view(whole).numpy()
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return np.ascontiguousarray(values[bits])

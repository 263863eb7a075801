"""Where a row stands in its grammar, and the tokens that may come next.

The grammar follows the row's own tokens, so that a row that memory has set back goes on as it was.
What may not come is taken out of the logits, before penalties and sampling: the others keep their
proportions, and random numbers are those that the row draws anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch


class Held:
    """An answer that must be of a grammar."""

    def __init__(self, matcher: Any, words: int) -> None:
        self._matcher, self._words = matcher, words
        self.begins_at: int | None = None  # tokens before the answer; None: it has not begun
        self._seen = 0  # tokens of the answer that were looked at
        self.error: str | None = None  # why no more can be said

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
            self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
            if self._matcher.is_error():
                self._fail()
        return None if self.error is not None else words.view(np.uint8)

    def _fail(self) -> None:
        reason = " ".join(str(self._matcher.get_error()).split())
        self.error = f"the answer left its grammar: {reason[:200]}"


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

"""Which earlier places a token sees in a layer: read from the masks that a model builds for its own
attention.

Families configure their windows in many ways: per layer, in one key, as a chunk, by the kind of a
layer. The effect is always in the mask that a layer gets. So a model is run once on a few tokens,
with an attention name for which transformers builds masks by our function. That function gets the
rule of each mask, not only a few of its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

MASK_PROBE = "runner_mask_probe"  # the attention's name while masks are inspected

Rule = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Unknown(Exception):
    """A layer gets no mask, one that its model builds itself, or one that depends on more than
    positions."""


@dataclass(frozen=True)
class Window:
    """How far back a token sees: `size` places with its own, or to the beginning of its chunk of
    `size` places."""

    size: int
    is_chunk: bool = False

    def first(self, position: int) -> int:
        """Return the first position that a token sees."""
        return position // self.size * self.size if self.is_chunk else max(position - self.size + 1, 0)


def widest(windows: Iterable[Window | None]) -> Window:
    """Return a window in which a token sees what it sees in any of these."""
    return Window(max(window.size for window in windows if window is not None))


class Masks:
    """Builds the masks of a model that is inspected, and records the window of each."""

    def __init__(self) -> None:
        self._built: list[tuple[torch.Tensor, Window | Unknown | None]] = []

    def build(
        self, batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, kv_offset: int = 0, *,
        mask_function: Rule, local_size: int | None = None, device: torch.device | str = "cpu", **_: Any,
    ) -> torch.Tensor:  # fmt: skip
        """Return a boolean mask [B, 1, Q, K] like that of transformers for SDPA, and record its
        window."""
        queries, keys = (torch.arange(count, device=device) for count in (q_length, kv_length))
        seen = _seen(mask_function, queries + q_offset, keys + kv_offset)
        mask = seen[None, None].expand(batch_size, 1, -1, -1).contiguous()
        window: Window | Unknown | None
        try:
            window = _window(mask_function, local_size, device)
        except IndexError:  # the rule needs data of each token, such as whether it is a picture
            window = Unknown()
        self._built.append((mask, window))
        return mask

    def window(self, mask: torch.Tensor | None) -> Window | None:
        """Return the window of a mask that a layer gets, None if it sees everything; Unknown if
        that is unclear."""
        if mask is None:
            raise Unknown
        for built, window in self._built:
            if mask.data_ptr() == built.data_ptr():
                if isinstance(window, Unknown):
                    raise window
                return window
        hides = mask.dtype == torch.bool or bool(((mask == 0) | (mask <= torch.finfo(mask.dtype).min)).all())
        if not hides:
            raise NotImplementedError("its layers add numbers of their own to the scores")
        raise Unknown


_masks: ContextVar[Masks] = ContextVar("masks")  # of the model that this thread inspects


@contextmanager
def probing_masks() -> Iterator[Masks]:
    """Build masks by the returned object, in passes of this thread with the attention
    MASK_PROBE."""
    outer = _masks.set(Masks())
    try:
        yield _masks.get()
    finally:
        _masks.reset(outer)


def build(*sizes: int, **more: Any) -> torch.Tensor:
    """Build a mask for the model that this thread inspects; transformers calls this."""
    return _masks.get().build(*sizes, **more)


def register() -> None:
    """Register the masks with transformers."""
    from transformers import AttentionMaskInterface

    AttentionMaskInterface.register(MASK_PROBE, build)


def _seen(rule: Rule, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return [Q, K]: whether a query sees a key, by their positions."""
    first = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=keys.device)
    seen = rule(first, first, queries[None, None, :, None], keys[None, None, None, :])
    return seen.expand(1, 1, len(queries), len(keys))[0, 0]


def _window(rule: Rule, size: int | None, device: torch.device | str) -> Window | None:
    """Return the window by which a rule hides keys, tested around the places where it would hide
    them."""
    around = size or 64
    places = {0, 1, around // 2, *(turn * around + by for turn in (1, 2, 3) for by in (-2, -1, 0, 1))}
    queries = torch.tensor(sorted(place for place in places if place >= 0))
    keys = torch.arange(int(queries[-1]) + 2)
    seen = _seen(rule, queries.to(device), keys.to(device)).cpu()
    choices: list[Window | None] = [None] if size is None else [Window(size), Window(size, is_chunk=True)]
    for window in choices:
        first = torch.tensor([0 if window is None else window.first(place) for place in queries.tolist()])
        if torch.equal(seen, (keys >= first[:, None]) & (keys <= queries[:, None])):
            return window
    raise NotImplementedError("its mask hides other tokens than those behind a window or before a chunk")

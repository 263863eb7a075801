"""Detects the sliding window of each layer from the attention masks that a model builds.

Families configure windows in many ways: per layer, in one key, as a chunk, by layer type.
The effect is always in the mask that a layer gets. So a model runs once on a few tokens,
with an attention name for which transformers builds masks by our function. That function
receives the rule of each mask, not only a few of its values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

MASK_PROBE = "runner_mask_probe"  # the attention's name while masks are inspected

MaskRule = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class UnknownWindow(Exception):
    """Raised if no sliding window can be detected for a layer.

    The mask is missing, built by the model itself, or depends on more than positions.
    """


@dataclass(frozen=True)
class Window:
    """A sliding window that covers the last `size` positions, or a chunk of `size` positions.

    The position of the token is included.
    """

    size: int
    is_chunk: bool = False

    def first_position(self, position: int) -> int:
        """Return the first position that the token at `position` attends to."""
        return position // self.size * self.size if self.is_chunk else max(position - self.size + 1, 0)


def widest_window(windows: Iterable[Window | None]) -> Window:
    """Return a sliding window that covers all of the given windows."""
    return Window(max(window.size for window in windows if window is not None))


class MaskRecorder:
    """Builds the attention masks of an inspected model, and records the sliding window of each mask."""

    def __init__(self) -> None:
        self._built: list[tuple[torch.Tensor, Window | UnknownWindow | None]] = []

    def build_and_record_mask(
        self, batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, kv_offset: int = 0, *,
        mask_function: MaskRule, local_size: int | None = None, device: torch.device | str = "cpu", **_: Any,
    ) -> torch.Tensor:  # fmt: skip
        """Build a boolean SDPA mask [B, 1, Q, K] like transformers, and record its sliding window."""
        queries, keys = (torch.arange(count, device=device) for count in (q_length, kv_length))
        seen = _build_visibility_mask(mask_function, queries + q_offset, keys + kv_offset)
        mask = seen[None, None].expand(batch_size, 1, -1, -1).contiguous()
        window: Window | UnknownWindow | None
        try:
            window = _detect_attention_window(mask_function, local_size, device)
        except IndexError:  # the rule needs data of each token, such as whether it is a picture
            window = UnknownWindow()
        self._built.append((mask, window))
        return mask

    def find_sliding_window_of_mask(self, mask: torch.Tensor | None) -> Window | None:
        """Return the sliding window of a recorded mask, or None if all earlier tokens are visible.

        Raises UnknownWindow if the mask was not built here.
        """
        if mask is None:
            raise UnknownWindow
        for built, window in self._built:
            if mask.data_ptr() == built.data_ptr():
                if isinstance(window, UnknownWindow):
                    raise window
                return window
        hides = mask.dtype == torch.bool or bool(((mask == 0) | (mask <= torch.finfo(mask.dtype).min)).all())
        if not hides:
            raise NotImplementedError("the layers add unsupported biases to the attention scores")
        raise UnknownWindow


_masks: ContextVar[MaskRecorder] = ContextVar("masks")  # of the model that this thread inspects


@contextmanager
def record_attention_masks() -> Iterator[MaskRecorder]:
    """Context manager that records the attention masks of forward passes in this thread.

    The model must use the attention named MASK_PROBE.
    """
    outer = _masks.set(MaskRecorder())
    try:
        yield _masks.get()
    finally:
        _masks.reset(outer)


def build_recorded_mask(*sizes: int, **kwargs: Any) -> torch.Tensor:
    """Build and record an attention mask of the inspected model. transformers calls this function."""
    return _masks.get().build_and_record_mask(*sizes, **kwargs)


def register_mask_recorder() -> None:
    from transformers import AttentionMaskInterface

    AttentionMaskInterface.register(MASK_PROBE, build_recorded_mask)


def _build_visibility_mask(rule: MaskRule, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return a boolean mask [Q, K] that is true where the query attends to the key."""
    first = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=keys.device)
    seen = rule(first, first, queries[None, None, :, None], keys[None, None, None, :])
    return seen.expand(1, 1, len(queries), len(keys))[0, 0]


def _detect_attention_window(rule: MaskRule, size: int | None, device: torch.device | str) -> Window | None:
    around = size or 64
    places = {0, 1, around // 2, *(turn * around + by for turn in (1, 2, 3) for by in (-2, -1, 0, 1))}
    queries = torch.tensor(sorted(place for place in places if place >= 0))
    keys = torch.arange(int(queries[-1]) + 2)
    seen = _build_visibility_mask(rule, queries.to(device), keys.to(device)).cpu()
    choices: list[Window | None] = [None] if size is None else [Window(size), Window(size, is_chunk=True)]
    for window in choices:
        first = torch.tensor(
            [0 if window is None else window.first_position(place) for place in queries.tolist()]
        )
        if torch.equal(seen, (keys >= first[:, None]) & (keys <= queries[:, None])):
            return window
    raise NotImplementedError("the attention mask is neither a sliding window nor chunked attention")

"""The tokens of segments in chunks, which are computed side by side; nothing is padded to the
longest segment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from runner_engine.recurrent.contract import Segments

CHUNK = 64  # tokens whose effects on each other are computed by one matmul


class Chunk(NamedTuple):
    """The chunks that come at the same place of their segments: those of the first tokens, the
    second ones, …"""

    segments: Tensor  # which segments have one
    rows: slice  # where their chunks are among all


def chunks_of(segments: Segments, device: torch.device, size: int = CHUNK) -> tuple[Tensor, list[Chunk]]:
    """Return the tokens of each chunk [chunks, size], −1 behind the end, and which chunks come at
    the same place."""
    rows: list[Tensor] = []
    chunks: list[Chunk] = []
    span = torch.arange(size)
    for start in range(0, segments.longest, size):
        present = [at for at, count in enumerate(segments.counts) if count > start]
        firsts = torch.tensor([segments.firsts[at] for at in present])[:, None]
        counts = torch.tensor([segments.counts[at] for at in present])[:, None]
        tokens = start + span
        rows.append(torch.where(tokens < counts, firsts + tokens, -1))
        done = chunks[-1].rows.stop if chunks else 0
        chunks.append(Chunk(torch.tensor(present, device=device), slice(done, done + len(present))))
    return torch.cat(rows).to(device), chunks


def taken(numbers: Tensor, places: Tensor) -> Tensor:
    """Return the numbers of the tokens at these places, zeros for −1."""
    found = numbers[places.clamp(min=0)]
    return found.masked_fill_((places < 0).view(*places.shape, *[1] * (numbers.dim() - 1)), 0)


def put_back(numbers: Tensor, places: Tensor, tokens: int) -> Tensor:
    """Return the numbers of chunks [chunks, size, …] as those of the tokens [tokens, …]."""
    result = numbers.new_empty((tokens, *numbers.shape[2:]))
    is_token = places >= 0
    result[places[is_token]] = numbers[is_token]
    return result

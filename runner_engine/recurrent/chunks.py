"""Splits token segments into chunks of equal size, to avoid padding all segments to the longest one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from runner_engine.recurrent.mixer import Segments

CHUNK = 64  # tokens whose effects on each other are computed by one matmul


class Chunk(NamedTuple):
    """All chunks with the same index in their segments, such as the first chunk of each segment."""

    segments: Tensor  # which segments have one
    rows: slice  # where their chunks are among all


def split_segments_into_chunks(
    segments: Segments, device: torch.device, chunk_size: int = CHUNK
) -> tuple[Tensor, list[Chunk]]:
    """Split token segments into chunks.

    Returns the token indices of each chunk [chunks, size], padded with −1, and the chunks grouped
    by index.
    """
    rows: list[Tensor] = []
    chunks: list[Chunk] = []
    span = torch.arange(chunk_size)
    for start in range(0, segments.max_count, chunk_size):
        present = [at for at, count in enumerate(segments.counts) if count > start]
        firsts = torch.tensor([segments.firsts[at] for at in present])[:, None]
        counts = torch.tensor([segments.counts[at] for at in present])[:, None]
        tokens = start + span
        rows.append(torch.where(tokens < counts, firsts + tokens, -1))
        done = chunks[-1].rows.stop if chunks else 0
        chunks.append(Chunk(torch.tensor(present, device=device), slice(done, done + len(present))))
    return torch.cat(rows).to(device), chunks


def gather_token_values_or_zeros(values: Tensor, indices: Tensor) -> Tensor:
    """Return the values of the tokens at these indices. An index of −1 gives zeros."""
    found = values[indices.clamp(min=0)]
    return found.masked_fill_((indices < 0).view(*indices.shape, *[1] * (values.dim() - 1)), 0)


def scatter_tokens(values: Tensor, indices: Tensor, num_tokens: int) -> Tensor:
    """Reorder values from chunks [chunks, size, …] to tokens [tokens, …]."""
    result = values.new_empty((num_tokens, *values.shape[2:]))
    is_token = indices >= 0
    result[indices[is_token]] = values[is_token]
    return result

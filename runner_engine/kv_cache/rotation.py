"""A rotation of heads before they are rounded: no number of a key is then much larger than the
others.

Queries and keys are rotated alike, which changes no product of the two. Values are rotated, and
what attention makes of them is rotated back. The rotation is Hadamard's matrix, its own inverse, in
sums and differences. A head whose width is no power of two is rotated in pieces that are.
kernels/rotation.h computes the same bits.
"""

from __future__ import annotations

import math

import torch


def piece_of(dim: int) -> int:
    """Return how many numbers of a head are rotated together: the largest power of two that divides
    its width."""
    return dim & -dim


def rotated(numbers: torch.Tensor) -> torch.Tensor:
    """Return heads [..., D] rotated; a second time, they are as before."""
    piece = piece_of(numbers.shape[-1])
    turned = numbers.float().reshape(-1, piece)
    step = 1
    while step < piece:
        pairs = turned.view(-1, piece // (2 * step), 2, step)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        turned = torch.stack((first + second, first - second), dim=2).view(-1, piece)
        step *= 2
    return (turned * (1.0 / math.sqrt(piece))).to(numbers.dtype).view(numbers.shape)

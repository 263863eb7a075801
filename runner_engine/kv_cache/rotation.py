"""Hadamard rotation of heads before quantization. It spreads large elements over the whole head.

Queries and keys are rotated alike, which changes no product of the two. Values are
rotated, and attention outputs are rotated back. The Hadamard matrix is its own inverse
and needs only sums and differences. A head whose width is no power of two is rotated in
pieces that are. kernels/rotation.h computes the same bits.
"""

from __future__ import annotations

import math

import torch


def rotation_block_size(head_dim: int) -> int:
    """Return the rotation's block size, which is the largest power of two that divides head_dim."""
    return head_dim & -head_dim


def apply_hadamard_rotation(heads: torch.Tensor) -> torch.Tensor:
    """Apply the Hadamard rotation to heads [..., D]. Rotating twice restores the heads."""
    piece = rotation_block_size(heads.shape[-1])
    turned = heads.float().reshape(-1, piece)
    step = 1
    while step < piece:
        pairs = turned.view(-1, piece // (2 * step), 2, step)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        turned = torch.stack((first + second, first - second), dim=2).view(-1, piece)
        step *= 2
    return (turned * (1.0 / math.sqrt(piece))).to(heads.dtype).view(heads.shape)

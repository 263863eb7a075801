"""A mixer alone beside the family's own layer with its own cache: rows of unequal length, in pieces
and token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from runner_engine.recurrent import Mixer, Segments

LENGTHS = (23, 9, 70)  # of rows; the last is longer than a chunk of 64
TOLERANCE = 2e-5  # of the largest result


def family_results(layer: Any, config: Any, rows: Sequence[Tensor], **named: Any) -> list[Tensor]:
    """Return what the family's layer gives for each row alone, with a cache: all but the last
    tokens, then one by one."""
    results = []
    for row in rows:
        cache = DynamicCache(config=config)
        start = len(row) - 3
        pieces = [row[:start], *torch.split(row[start:], 1)]
        outputs = []
        for piece in pieces:
            output = layer(
                piece[None],
                **{key: cache if value is DynamicCache else value for key, value in named.items()},
            )
            outputs.append((output[0] if isinstance(output, tuple) else output)[0])
        results.append(torch.cat(outputs))
    return results


def mixer_results(
    mixer: Mixer, rows: Sequence[Tensor], cuts: Sequence[int], states: list[Tensor] | None = None
) -> list[Tensor]:
    """Return what the mixer gives for all rows together, each cut into pieces at these places; then
    token by token.

    Row r has the slot 2 - r in passes that read pieces, and all move to their own slots before the
    last three tokens.
    """
    slots = len(rows) + 1
    states = fresh(mixer, slots) if states is None else states
    results: list[list[Tensor]] = [[] for _ in rows]
    edges = [0, *cuts, max(map(len, rows))]
    for start, end in pairwise(edges):
        present = [
            (at, row[start : min(end, len(row) - 3)]) for at, row in enumerate(rows) if start < len(row) - 3
        ]
        if not present:
            continue
        segments = Segments.from_token_counts(
            [len(rows) - 1 - at for at, _ in present], [len(piece) for _, piece in present]
        )
        output = mixer.forward(torch.cat([piece for _, piece in present]), states, segments)
        for (at, _), part in zip(present, torch.split(output, segments.counts), strict=True):
            results[at].append(part)
    for state in states:
        state[: len(rows)] = state[: len(rows)].flip(0).clone()
    step = Segments.from_token_counts(range(len(rows)), [1] * len(rows), is_decoding=True)
    for place in range(-3, 0):
        output = mixer.forward(torch.stack([row[place] for row in rows]), states, step)
        for at, part in enumerate(output):
            results[at].append(part[None])
    return [torch.cat(parts) for parts in results]


def fresh(mixer: Mixer, slots: int) -> list[Tensor]:
    """Return the states of so many slots without tokens."""
    return [torch.zeros((slots, *shape.shape), dtype=shape.dtype) for shape in mixer.states]


def spread_weights(module: nn.Module, seed: int = 0) -> None:
    """Give all weights numbers that matter: fresh ones are too small to see a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.dim() == 1 else 0.2)
            )


def off(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return how far the results are apart at most, as a share of the largest."""
    largest = max(float(row.abs().max()) for row in theirs)
    return max(float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True)) / largest


def rows_of(width: int, lengths: Sequence[int] = LENGTHS) -> list[Tensor]:
    """Return random inputs of rows."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, width, generator=generator) for length in lengths]


def check(
    layer: Any,
    config: Any,
    mixer: Mixer,
    named: dict[str, Any],
    break_state: Callable[[list[Tensor]], object] | None = None,
) -> float:
    """Return the farthest that the mixer is off; break_state: a control, which spoils the states
    before the rows begin."""
    width = config.hidden_size
    rows = rows_of(width)
    with torch.inference_mode():
        expected = family_results(layer, config, rows, **named)
        farthest = 0.0
        for cuts in ([], [1], [5, 6, 40]):
            states = fresh(mixer, len(rows) + 1)
            if break_state is not None:
                break_state(states)
            farthest = max(farthest, off(mixer_results(mixer, rows, cuts, states), expected))
    return farthest

"""What the kernels do with logits: the largest of each row, and the next token by a row's
settings."""

from __future__ import annotations

from typing import NamedTuple

import torch

from runner_engine.kernels import native
from runner_engine.settings.sampling import PARAMETERS


def argmax(scores: torch.Tensor) -> torch.Tensor:
    """Return the position of the largest number of each row [B, V], -1 for a row with NaN.

    On a CPU, torch would first convert 16-bit numbers in a copy, which takes longer.
    """
    compiled = for_logits(scores)
    if compiled is None:
        wide = scores.float() if scores.device.type == "cpu" else scores
        best = wide.argmax(dim=-1)  # the first NaN, where there is one
        return best.masked_fill_(scores.gather(-1, best[:, None])[:, 0].isnan(), -1)
    scores = scores.contiguous()
    count, width = scores.shape
    best = torch.empty(count, dtype=torch.long)
    compiled("argmax", scores.dtype, scores.data_ptr(), count, width, best.data_ptr())
    return best


class RowSettings(NamedTuple):
    """How each row of a batch is sampled, as C reads it."""

    # float64 [B, P]: the parameters in the order of the table in settings/sampling.py
    numbers: torch.Tensor
    # int64 [B]: address of the marks [V] of tokens in prompt and answer, 0: no penalty
    seen: torch.Tensor
    # int64 [B]: address of the counts [V] of the answer's tokens, 0: no penalty
    counts: torch.Tensor


def sample(
    compiled: native.Kernels, logits: torch.Tensor, settings: RowSettings, uniform: torch.Tensor
) -> torch.Tensor:
    """Return the next token of each row [B, V] by its settings and its random number, -1 for a row
    with NaN."""
    logits = logits if logits.stride(1) == 1 and logits.stride(0) >= 0 else logits.contiguous()
    count, width = logits.shape
    numbers = native.pointer(settings.numbers, torch.float64, count, len(PARAMETERS))
    seen, counts = (native.pointer(one, torch.int64, count) for one in (settings.seen, settings.counts))
    share = 2 * (int(2.05 * width) + 128)  # numbers for each thread; an even number
    workspace = torch.empty(torch.get_num_threads() * share, dtype=torch.float32)
    tokens = torch.empty(count, dtype=torch.long)
    compiled(
        "sample",
        None,
        logits.data_ptr(),
        logits.stride(0),
        int(logits.dtype == torch.bfloat16),
        count,
        width,
        numbers,
        len(PARAMETERS),
        seen,
        counts,
        native.pointer(uniform, torch.float64, count),
        workspace.data_ptr(),
        share,
        tokens.data_ptr(),
    )
    return tokens


def for_logits(logits: torch.Tensor) -> native.Kernels | None:
    """Return the kernels if they are available and read such logits."""
    return native.kernels() if logits.device.type == "cpu" and logits.dtype in native.FORMATS else None

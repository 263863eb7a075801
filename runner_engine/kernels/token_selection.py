"""Selects the next tokens from logits with C kernels, by argmax or by sampling."""

from __future__ import annotations

from typing import NamedTuple

import torch

from runner_engine.kernels import native
from runner_engine.settings.sampling import PARAMETERS


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """Return each sequence's token with the largest logit, given logits [B, V].

    The token is -1 if the logits contain NaN.

    On a CPU, torch would first convert 16-bit numbers in a copy, which takes longer.
    """
    compiled = get_kernels_for_logits(logits)
    if compiled is None:
        wide = logits.float() if logits.device.type == "cpu" else logits
        best = wide.argmax(dim=-1)  # the first NaN, where there is one
        return best.masked_fill_(logits.gather(-1, best[:, None])[:, 0].isnan(), -1)
    logits = logits.contiguous()
    count, width = logits.shape
    best = torch.empty(count, dtype=torch.long)
    compiled("argmax", logits.dtype, logits.data_ptr(), count, width, best.data_ptr())
    return best


class SequenceSampling(NamedTuple):
    """Sampling parameters of all sequences in a batch, in the layout that the C kernel expects."""

    # float64 [B, P]: the parameters in the order of the table in settings/sampling.py
    numbers: torch.Tensor
    # int64 [B]: address of the marks [V] of tokens in prompt and answer, 0: no penalty
    seen: torch.Tensor
    # int64 [B]: address of the counts [V] of the answer's tokens, 0: no penalty
    counts: torch.Tensor


def sample_tokens(
    kernels: native.Kernels, logits: torch.Tensor, settings: SequenceSampling, random_numbers: torch.Tensor
) -> torch.Tensor:
    """Sample each sequence's next token from logits [B, V], using one random number per sequence.

    The token is -1 if the logits contain NaN.
    """
    logits = logits if logits.stride(1) == 1 and logits.stride(0) >= 0 else logits.contiguous()
    count, width = logits.shape
    numbers = native.get_tensor_address(settings.numbers, torch.float64, count, len(PARAMETERS))
    seen, counts = (
        native.get_tensor_address(one, torch.int64, count) for one in (settings.seen, settings.counts)
    )
    share = 2 * (int(2.05 * width) + 128)  # numbers for each thread; an even number
    workspace = torch.empty(torch.get_num_threads() * share, dtype=torch.float32)
    tokens = torch.empty(count, dtype=torch.long)
    kernels(
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
        native.get_tensor_address(random_numbers, torch.float64, count),
        workspace.data_ptr(),
        share,
        tokens.data_ptr(),
    )
    return tokens


def get_kernels_for_logits(logits: torch.Tensor) -> native.Kernels | None:
    """Return the C kernels, or None if they are unavailable or do not support these logits."""
    return native.load_kernels() if logits.device.type == "cpu" and logits.dtype in native.FORMATS else None

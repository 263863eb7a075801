"""Tests on the device whether decoding steps can read keys through a page table."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from runner_base import is_out_of_memory_error, to_one_line
from runner_engine.attention.device_attention import (
    OwnKeys,
    compute_variable_length_attention,
    supports_variable_key_counts,
)
from runner_engine.attention.partial_attention import Scaling
from runner_engine.kv_cache import KvCacheSpec

log = logging.getLogger(__name__)

PAGE = 256  # places of a page: flash attention takes multiples of them
ALLOWED_OFF = 0.05  # where a wrong key gives 0.2 and more
# the trial's rows: their pages in order, some of them shared, and how many pages' places each sees
ROWS = {(4, 2, 7, 1): 3.01, (4, 2, 3, 8): 2.3, (5, 9, 9, 9): 0.5, (4, 6, 0, 0): 2.0, (10, 11, 12, 13): 3.99}


def find_kv_page_size(kv_spec: KvCacheSpec) -> int:
    """Return the number of positions per page in paged attention.

    Returns 0 and logs the reason if the device does not support paged attention.
    """
    if not supports_variable_key_counts(kv_spec):
        return 0
    try:
        schema = _read_flash_attention_schema()
        if missing := [name for name in ("block_table", "num_splits") if name not in schema]:
            raise RuntimeError(
                f"flash attention of this torch version does not support {' or '.join(missing)}"
            )
        for window in {
            None if window is None else min(window.size, PAGE + PAGE // 8)
            for window in kv_spec.windows or (None,)
        }:
            off = _compute_paged_attention_error(kv_spec, window)
            if not off <= ALLOWED_OFF:
                raise RuntimeError(
                    f"attention would be off by {off:.2g}" + (" in a window" if window else "")
                )
    except RuntimeError as error:
        if is_out_of_memory_error(error):
            raise
        log.info(
            "paged attention is unavailable, so each decoding step reads each shared prefix separately: %s",
            to_one_line(error, limit=160),
        )
        return 0
    return PAGE


def _read_flash_attention_schema() -> str:
    return str(torch.ops.aten._flash_attention_forward.default._schema)


def _compute_paged_attention_error(kv_spec: KvCacheSpec, window: int | None) -> float:
    """Return the largest difference between the results of paged and contiguous attention on test inputs.

    Invisible positions hold NaN.
    """
    device = kv_spec.device
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(kv_spec.dtype)

    blocks, counts = (
        torch.tensor(some, dtype=torch.int32, device=device)
        for some in (list(ROWS), [int(pages * PAGE) for pages in ROWS.values()])
    )
    rows, places = (torch.arange(len(ROWS) + 1, dtype=torch.int32, device=device), blocks.shape[1] * PAGE)
    where = (blocks.long()[..., None] * PAGE + torch.arange(PAGE, device=device)).flatten(1)
    seen = where[torch.arange(places, device=device) < counts[:, None]]
    pool = []
    for _ in ("keys", "values"):
        pool.append(
            torch.full(
                (14 * PAGE, kv_spec.kv_heads, kv_spec.dim), torch.nan, dtype=kv_spec.dtype, device=device
            )
        )
        pool[-1][seen] = random(len(seen), kv_spec.kv_heads, kv_spec.dim)
    query, scaling = (
        random(len(ROWS), kv_spec.kv_heads * kv_spec.group, kv_spec.dim),
        Scaling(2 * kv_spec.dim**-0.5, 0.0),
    )
    keys, values = pool
    paged = OwnKeys(keys, values, rows, rows * places, counts, places, window, blocks)
    keys, values = (some[where.flatten()].nan_to_num() for some in pool)
    ours, _ = compute_variable_length_attention(scaling, query, paged)
    expected, _ = compute_variable_length_attention(
        scaling, query, replace(paged, keys=keys, values=values, blocks=None)
    )
    return float((ours.float() - expected.float()).abs().max())

"""Whether a decoding step may read keys in pages by a table: a trial on the device itself."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from runner_base import is_memory_error, one_line
from runner_engine.attention.device_attention import OwnKeys, attend_by_length, attends_by_length
from runner_engine.attention.parts import Scaling
from runner_engine.kv_cache import Heads

log = logging.getLogger(__name__)

PAGE = 256  # places of a page: flash attention takes multiples of them
ALLOWED_OFF = 0.05  # where a wrong key gives 0.2 and more
# the trial's rows: their pages in order, some of them shared, and how many pages' places each sees
ROWS = {(4, 2, 7, 1): 3.01, (4, 2, 3, 8): 2.3, (5, 9, 9, 9): 0.5, (4, 6, 0, 0): 2.0, (10, 11, 12, 13): 3.99}


def page_of(heads: Heads) -> int:
    """Return how many places a page has in which a step may read keys; 0 where it cannot, and the
    log says why."""
    if not attends_by_length(heads):
        return 0
    try:
        schema = _schema()
        if missing := [name for name in ("block_table", "num_splits") if name not in schema]:
            raise RuntimeError(f"this torch's flash attention has no {' and no '.join(missing)}")
        for window in {
            None if window is None else min(window.size, PAGE + PAGE // 8)
            for window in heads.windows or (None,)
        }:
            off = _off_in_pages(heads, window)
            if not off <= ALLOWED_OFF:
                raise RuntimeError(
                    f"attention would be off by {off:.2g}" + (" in a window" if window else "")
                )
    except RuntimeError as error:
        if is_memory_error(error):
            raise
        log.info(
            "shared prefixes are no pages, and a step attends to each of them: %s", one_line(error, limit=160)
        )
        return 0
    return PAGE


def _schema() -> str:
    return str(torch.ops.aten._flash_attention_forward.default._schema)


def _off_in_pages(heads: Heads, window: int | None) -> float:
    """Return by how much attention to pages differs from that to copies side by side; what no row
    sees is NaN."""
    device = heads.device
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(heads.dtype)

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
            torch.full((14 * PAGE, heads.kv_heads, heads.dim), torch.nan, dtype=heads.dtype, device=device)
        )
        pool[-1][seen] = random(len(seen), heads.kv_heads, heads.dim)
    query, scaling = (
        random(len(ROWS), heads.kv_heads * heads.group, heads.dim),
        Scaling(2 * heads.dim**-0.5, 0.0),
    )
    keys, values = pool
    paged = OwnKeys(keys, values, rows, rows * places, counts, places, window, blocks)
    keys, values = (some[where.flatten()].nan_to_num() for some in pool)
    ours, _ = attend_by_length(scaling, query, paged)
    expected, _ = attend_by_length(scaling, query, replace(paged, keys=keys, values=values, blocks=None))
    return float((ours.float() - expected.float()).abs().max())

"""A local model's forward pass with its fast kernels, and the logits of a pass that has every kind
of row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import pytest
import torch

from runner_base.dtypes import Dtype
from runner_engine.attention.attention import PassLayout
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.passes.forward import Forward, TokenSpan
from runner_engine.decode.scheduler import Scheduler
from runner_engine.decode.sequences import TokenSequence
from runner_engine.kv_cache.kv_store import KvCacheSpec, KvStore
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.sequence_kv import SequenceKv
from runner_engine.kv_cache.shared_kv import create_kv_store
from runner_engine.local.engine import LocalEngine
from runner_engine.models.base_loading import LoadedModel
from runner_engine.sessions.base import Request

CUDA_SAYS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.69 GiB"
# of the logits' spread: the farthest, and in 16 bits their mean
OFF = {Dtype.float32: 2e-5, Dtype.bfloat16: 0.04}
LENGTHS = (1, 2, 5, 16, 17, 33, 40)  # of prompts: remainders of tiles, blocks and panels


def with_fast_kernels(engine: LocalEngine) -> tuple[LoadedModel, KvCacheSpec, FusedForward | None]:
    """Return a model whose layers are replaced, as before its first rows."""
    engine.load()
    loaded = engine.loaded
    heads = engine.find_kv_spec(loaded)
    assert heads is not None
    engine.install_layer_replacements(loaded, heads)
    return loaded, heads, engine.fused


def all_logits(forward: Forward, with_prefix: bool, adapters: Sequence[str | None] = (None,)) -> torch.Tensor:
    """Return the logits of rows of all lengths, some of which decode while others are read; half
    have a prefix. adapters: of the rows by turns, where they have no prefix."""
    torch.manual_seed(0)
    prefix = Prefix(torch.randint(0, 60, (37,)).tolist())
    if with_prefix:
        forward.prefill_prefix(prefix, 20)
        forward.prefill_prefix(prefix, 20)
        forward.short_span = 20  # longer prompts are attended to by tiles
    prompts = [torch.randint(0, 60, (length,)).tolist() for length in LENGTHS]
    rows = [
        TokenSequence(Request(number, ()), prefix.tokens + ids, "", 9, kv=SequenceKv(prefix))
        if with_prefix and number % 2
        else TokenSequence(Request(number, (), adapter=adapter), ids, "", 9)
        for number, (ids, adapter) in enumerate(zip(prompts, cycle(adapters), strict=False))
    ]
    own = create_kv_store(
        forward.heads, forward.kernels, [64] * len(prompts), [row.kv.prefix for row in rows]
    )
    going, entering = rows[:4], rows[4:]
    read = forward.run_token_spans(
        own, [TokenSpan(row, slot, row.pending_tokens) for slot, row in enumerate(going)]
    )
    for row in going:
        row.kv.places, row.tokens = len(row.pending_tokens), [3]
    pieces = [TokenSpan(row, slot, [3], row.kv.places) for slot, row in enumerate(going)]
    pieces += [TokenSpan(row, slot, row.pending_tokens) for slot, row in enumerate(entering, start=4)]
    mixed = forward.run_token_spans(own, pieces)
    for row in rows:
        row.kv.places, row.tokens = (
            row.kv.places + 1 if row.tokens else len(row.pending_tokens),
            [*row.tokens, 5],
        )
    return torch.cat((read, mixed, forward.step(own, rows, forward.list_shared_prefixes(rows)))).float()


def read_rows(
    forward: Forward, prompts: list[list[int]], piece: int = 10**6
) -> tuple[KvStore, list[TokenSequence], torch.Tensor]:
    """Read prompts of rows in pieces of so many tokens; return the logits after them, and rows that decode."""
    rows = [TokenSequence(Request(number, ()), ids, "", 9) for number, ids in enumerate(prompts)]
    own = create_kv_store(forward.heads, forward.kernels, [len(ids) + 9 for ids in prompts])
    logits = []
    for slot, row in enumerate(rows):
        for start in range(0, len(row.prompt), piece):
            ids, end = row.prompt[start : start + piece], start + piece
            read = forward.run_token_spans(
                own, [TokenSpan(row, slot, ids, start, is_last=end >= len(row.prompt))]
            )
        logits.append(read)
        row.kv.places, row.tokens = len(row.prompt), [7]
    return own, rows, torch.cat(logits)


def check_logits(engine: LocalEngine, dtype: Dtype) -> None:
    """Compare the logits of a pass in a single call with those of the model's own pass."""
    loaded, heads, fused = with_fast_kernels(engine)
    assert fused is not None
    for with_prefix in (False, True):
        expected = all_logits(Forward(loaded.model, heads), with_prefix)
        forward = Forward(loaded.model, heads)
        forward.fused = fused
        logits = all_logits(forward, with_prefix)
        off = (logits - expected).abs()
        assert (off.max() if dtype == Dtype.float32 else off.mean()) <= OFF[dtype] * expected.std()
        if dtype == Dtype.float32:
            assert (logits.argmax(-1) == expected.argmax(-1)).all()


def check_that_it_shows(engine: LocalEngine, change: Callable[[FusedForward], None]) -> None:
    """See that a wrong number in what is called gives logits that are far from the model's."""
    loaded, heads, fused = with_fast_kernels(engine)
    assert fused is not None
    expected = all_logits(Forward(loaded.model, heads), with_prefix=True)
    forward = Forward(loaded.model, heads)
    change(fused)
    forward.fused = fused
    assert (all_logits(forward, with_prefix=True) - expected).abs().max() > 50 * OFF[
        Dtype.float32
    ] * expected.std()


@contextmanager
def forwards(through: Callable[[int, Scheduler, list[int]], None]) -> Iterator[None]:
    """Call a function before every forward pass of a stream: (number, stream, token ids); it may
    raise."""
    real = Forward._run_model
    begin: Any = Scheduler.__init__
    streams: dict[int, Scheduler] = {}
    count = 0

    def init(self: Scheduler, *arguments: Any) -> None:
        begin(self, *arguments)
        streams[id(self.decoder.forward)] = self

    def forward(
        self: Forward, what: PassLayout, ids: list[int], positions: list[int], keep: Any
    ) -> torch.Tensor:
        nonlocal count
        if id(self) in streams:  # others are the trial of a model before its first stream
            count += 1
            through(count, streams[id(self)], ids)
        return real(self, what, ids, positions, keep)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "__init__", init)
        patch.setattr(Forward, "_run_model", forward)
        yield

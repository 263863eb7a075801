"""Rows on shared prefixes that decode, by the usual step and by the one on the device: for the
tests of the latter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attending import GPU
from opening import load_base, make_spec
from transformers import Gemma2Config, GptOssConfig, LlamaConfig, MistralConfig

from runner_base.dtypes import Dtype
from runner_engine.decode.passes.forward import Forward, TokenSpan
from runner_engine.decode.sequences import TokenSequence
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.sequence_kv import SequenceKv
from runner_engine.kv_cache.shared_kv import create_kv_store
from runner_engine.kv_cache.slots import SlotStore
from runner_engine.models.base_loading import LoadedModel
from runner_engine.sessions.base import Request
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
SIZES: dict[str, Any] = {
    "vocab_size": 259, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "intermediate_size": 96, "max_position_embeddings": 512, "initializer_range": 0.3,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {  # what layers pass to their attention: nothing more, a window, a cap and windows, sinks and windows
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=24),
    "gemma2": Gemma2Config(**SIZES, sliding_window=24, query_pre_attn_scalar=16),
    "gpt_oss": GptOssConfig(**SIZES, sliding_window=24, num_local_experts=2, num_experts_per_tok=1),
}
TRUNK, BRANCH = 40, 20
IDS = torch.randint(3, 250, (400,), generator=torch.Generator().manual_seed(4)).tolist()


class Replayed:
    """Stands for a CUDA graph: the same function on the tensors of that time, with the logits in
    one place."""

    def __init__(self, run: Callable[[], torch.Tensor]) -> None:
        self.run, self.logits, self.replays = run, run(), 0

    def replay(self) -> None:
        self.replays += 1
        with torch.inference_mode():
            self.logits.copy_(self.run())


def loaded_of(folder: Path, device: str) -> LoadedModel:
    model = LocalModelConfig(name=str(folder), device=device, dtype=Dtype.float32)
    return load_base(make_spec(model=model))


class Decoding:
    """Rows after their prompts: four on two nested prefixes, one alone; and one on a prefix whose
    prompt is half read."""

    def __init__(self, loaded: LoadedModel, heads: KvCacheSpec) -> None:
        self.forward = Forward(loaded.model, heads)
        trunk = Prefix(IDS[:TRUNK])
        branch = Prefix(IDS[TRUNK : TRUNK + BRANCH], trunk)
        ends = [IDS[at : at + 3 + at % 7] for at in (100, 111, 135, 147)]
        starts = [IDS[: TRUNK + BRANCH]] * 2 + [IDS[:TRUNK]] * 2
        self.rows = [
            TokenSequence(
                Request(number, ()), [*start, *end], "", 50, kv=SequenceKv(branch if number < 2 else trunk)
            )
            for number, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
        self.rows.append(TokenSequence(Request(9, ()), IDS[200:230], "", 50))
        self.long = TokenSequence(Request(10, ()), IDS[:TRUNK] + IDS[300:360], "", 50, kv=SequenceKv(trunk))
        for prefix in (trunk, branch):
            self.forward.prefill_prefix(prefix, 1000)
        self.own = create_kv_store(
            heads, self.forward.kernels, [128] * 8, [row.kv.prefix for row in (*self.rows, self.long)]
        )
        assert isinstance(self.own, SlotStore)
        pieces = [TokenSpan(row, slot, row.pending_tokens) for slot, row in enumerate([*self.rows])]
        first = self.forward.run_token_spans(self.own, pieces).argmax(dim=-1).tolist()
        self.forward.run_token_spans(
            self.own, [TokenSpan(self.long, 5, self.long.pending_tokens[:30], is_last=False)]
        )
        self.long.kv.places = 30
        self.own.set_num_filled(len(self.rows), 30)
        for slot, (row, token) in enumerate(zip(self.rows, first, strict=True)):
            row.tokens, row.kv.places = [token], len(row.pending_tokens)
            self.own.set_num_filled(slot, row.kv.places)

    def step(self) -> torch.Tensor:
        """Decode one more token of each row."""
        logits = self.forward.step(
            self.own, self.rows, self.forward.list_shared_prefixes(self.rows), [self.long]
        )
        logits = logits.clone()
        for slot, (row, token) in enumerate(zip(self.rows, logits.argmax(dim=-1).tolist(), strict=True)):
            row.tokens.append(token)
            row.kv.places += 1
            self.own.set_num_filled(slot, row.kv.places)
        return logits

    def finish(self) -> torch.Tensor:
        """Read the rest of the long prompt."""
        return self.forward.run_token_spans(
            self.own, [TokenSpan(self.long, 5, self.long.pending_tokens[30:], 30)]
        )

    def leave(self, slot: int) -> None:
        """Let a row end: the last one moves into its slot, and the one that is read follows."""
        assert isinstance(self.own, SlotStore)
        self.own.remove_slot(slot, len(self.rows))
        self.rows[slot] = self.rows[-1]
        self.rows.pop()


CLOSE = {KvCache.as_model: 1e-4, KvCache.int8: 5e-3}


def assert_close(ours: torch.Tensor, expected: torch.Tensor, kv_cache: KvCache = KvCache.as_model) -> None:
    assert float((ours - expected).abs().max() / expected.std()) < CLOSE[kv_cache]

"""A pass in a single call: for plain models only, and with the logits of their own pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.config.model import LocalModelConfig
from runner.config.root import RunnerConfig
from runner.core.dtypes import Dtype
from runner.engines.base import Request
from runner.engines.local.compat_probe import probe_whole
from runner.engines.local.engine import LocalEngine
from runner.engines.local.forward import Forward, Piece
from runner.engines.local.kernels import native
from runner.engines.local.shared_kv import own_kv
from runner.engines.local.whole_pass import Unlike, WholePass
from runner.engines.rows import Row

pytestmark = pytest.mark.skipif(native.kernels() is None, reason="no C compiler is here, so nothing is called in C")


@pytest.fixture
def engine_of(
    make_config: Callable[..., RunnerConfig], saved_family: Callable[..., Path]
) -> Callable[..., LocalEngine]:
    def make(family: str, dtype: Dtype = Dtype.float32, **settings: Any) -> LocalEngine:
        folder = saved_family(family, max_position_embeddings=512, **settings)
        return LocalEngine(make_config(model=LocalModelConfig(name=str(folder), device="cpu", dtype=dtype)))

    return make


def test_its_logits_are_those_of_the_model(engine_of: Callable[..., LocalEngine]) -> None:
    """Rows of all lengths, some of which decode while others are read: remainders of strips, blocks and panels."""
    for family in ("llama", "qwen2"):  # the second has biases
        engine = engine_of(family)
        loaded = engine._model()
        heads = engine.heads(loaded)
        assert heads is not None
        whole = probe_whole(loaded, heads)
        assert whole is not None, family
        torch.manual_seed(0)
        prompts = [torch.randint(0, 60, (length,)).tolist() for length in (1, 2, 5, 16, 17, 33, 40)]
        logits = []
        for one in (None, whole):
            forward = Forward(loaded.model, heads)
            forward.whole = one
            own = own_kv(heads, forward.kernels, [64] * len(prompts))
            rows = [Row(Request(number, ()), ids, "", 9) for number, ids in enumerate(prompts)]
            going, entering = rows[:4], rows[4:]
            read = forward.read_prompts(own, [Piece(row, slot, row.prompt) for slot, row in enumerate(going)])
            for row in going:
                row.places, row.tokens = len(row.prompt), [3]
            pieces = [Piece(row, slot, [3], row.places) for slot, row in enumerate(going)]
            pieces += [Piece(row, slot, row.prompt) for slot, row in enumerate(entering, start=4)]
            mixed = forward.read_prompts(own, pieces)
            for row in rows:
                row.places, row.tokens = row.places + 1 if row.tokens else len(row.prompt), [*row.tokens, 5]
            logits.append(torch.cat((read, mixed, forward.step(own, rows, []))))
        assert (logits[0] - logits[1]).abs().max() <= 1e-5 * logits[0].std()
        assert (logits[0].argmax(-1) == logits[1].argmax(-1)).all()
        engine.close()


def test_other_models_go_their_own_way(engine_of: Callable[..., LocalEngine]) -> None:
    others = {
        "norms of queries and keys": engine_of("qwen3"),
        "16 bits": engine_of("llama", Dtype.bfloat16),
        "another function in the middle": engine_of("llama", hidden_act="gelu"),
    }
    for why, engine in others.items():
        heads = engine.heads(engine._model())
        assert heads is not None
        assert probe_whole(engine._model(), heads) is None, why
        engine.close()


def test_what_hooks_into_a_layer_is_not_passed_by(engine_of: Callable[..., LocalEngine]) -> None:
    engine = engine_of("llama")
    loaded = engine._model()
    heads, kernels = engine.heads(loaded), native.kernels()
    assert heads is not None
    assert kernels is not None
    hook = loaded.model.model.layers[1].register_forward_hook(lambda *_: None)
    with pytest.raises(Unlike, match="hooks"):
        WholePass(loaded.model, heads, 64, kernels)
    hook.remove()
    assert WholePass(loaded.model, heads, 64, kernels).vocabulary == loaded.metrics["vocab_size"]
    engine.close()

"""Rows of several adapters in a pass in a single call: as operation by operation, and as alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import save_adapter
from forward_pass import OFF, all_logits, with_fast_kernels
from hybrids import save_hybrid
from opening import make_spec, open_engine
from refusals import ANY_PLACE, refusal
from torch import nn

from runner_base.dtypes import Dtype
from runner_engine.decode.compat_probe import build_and_verify_fused_forward
from runner_engine.decode.fast_layers import FastLayers
from runner_engine.decode.fused_adapters import FusedAdapters
from runner_engine.decode.layouts import NotFusable
from runner_engine.decode.passes.forward import Forward, TokenSpan
from runner_engine.decode.sequences import TokenSequence
from runner_engine.kernels import native
from runner_engine.kernels.adapter_structures import AdaptedTokens, AdapterTile
from runner_engine.kv_cache.shared_kv import create_kv_store
from runner_engine.local.engine import LocalEngine
from runner_engine.models.lora.unmerged import has_hooks_besides_adapter
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.sessions.base import Request
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.named_adapters import MultiAdapterConfig
from tools import families

pytestmark = pytest.mark.skipif(
    native.load_kernels() is None, reason="no C compiler is here, so nothing is called in C"
)
# ranks that fill no vector, other layers and factors for each, and rows of the base between them
ADAPTERS: dict[str, dict[str, Any]] = {
    "wide": {"r": 19, "lora_alpha": 8},
    "narrow": {"r": 3, "use_rslora": True, "layers_to_transform": [1]},
    "second": {"r": 8, "layers_to_transform": [0]},
}
NAMES = (*ADAPTERS, None, "wide")
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
INPUTS = ["per_layer_input_gate", "per_layer_projection"]
MODULES = {  # what adapters change of a family, where it is not these
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "deepseek_v2": ["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"],
    "qwen3_5": ["in_proj_qkv", "in_proj_z", "out_proj", "q_proj", "o_proj", "up_proj"],
    "falcon_h1": ["in_proj", "q_proj", "o_proj", "gate_proj"],
    "mixtral": ["q_proj", "o_proj"],
    "gemma3n_text": [*LINEAR, *INPUTS, "linear_left", "linear_right"],
    "gemma4_text": [*LINEAR, *INPUTS],
    "qwen2_moe": ["q_proj", "shared_expert.gate_proj", "shared_expert.down_proj"],
}
HYBRIDS = ("qwen3_5", "falcon_h1")
QUANTIZED = "llama that is wide enough for blocks of 4-bit weights"
Open = Callable[..., LocalEngine]


@pytest.fixture(scope="module")
def places(
    tiny_llama: Path, saved_family: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Any]:
    """Return a family's folder and those of its adapters, made at their first use."""
    made: dict[str, tuple[Path, dict[str, str]]] = {}

    def of(family: str) -> tuple[Path, dict[str, str]]:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            base = folder / "base"
            if family == QUANTIZED:
                base = saved_family("llama", max_position_embeddings=512)
            elif family in HYBRIDS:
                save_hybrid(base, family, tiny_llama)
            else:
                families.build(family, base)
            modules = MODULES.get(family, LINEAR)
            made[family] = (
                base,
                {
                    name: str(save_adapter(folder / name, base, target_modules=modules, **keys))
                    for name, keys in ADAPTERS.items()
                },
            )
        return made[family]

    return of


@pytest.fixture
def opened_with(places: Callable[[str], Any]) -> Iterator[Open]:
    engines = []

    def open_family(
        family: str, dtype: Dtype = Dtype.float32, alone: str | None = None, **groups: Any
    ) -> LocalEngine:
        base, adapters = places(family)
        model = LocalModelConfig(name=str(base), device="cpu", dtype=dtype)
        lora = MultiAdapterConfig(adapters) if alone is None else PeftConfig(adapters[alone])
        engines.append(open_engine(make_spec(model=model, lora=lora, **groups)))
        return engines[-1]

    yield open_family
    for engine in engines:
        engine.close()


def check(engine: LocalEngine, dtype: Dtype) -> None:
    """Compare a pass in a single call with the model's own, for rows of all adapters and of
    none."""
    loaded, heads, fused = with_fast_kernels(engine)
    assert fused is not None
    expected = all_logits(Forward(loaded.model, heads), False, NAMES)
    of_base = all_logits(Forward(loaded.model, heads), False)
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    logits = all_logits(forward, False, NAMES)
    off = (logits - expected).abs()
    assert (off.max() if dtype == Dtype.float32 else off.mean()) <= OFF[dtype] * expected.std()
    assert (of_base - expected).abs().mean() > 5 * off.mean(), "what adapters change is seen"


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt_neox", "gemma3n_text", "gemma4_text"])
def test_logits_are_those_of_the_model(family: str, dtype: Dtype, opened_with: Open) -> None:
    check(opened_with(family, dtype), dtype)


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["deepseek_v2", "mixtral", "qwen2_moe", *HYBRIDS])
def test_latents_mixtures_and_states(family: str, opened_with: Open) -> None:
    check(opened_with(family), Dtype.float32)


@pytest.mark.thorough
def test_a_quantized_base(opened_with: Open) -> None:
    check(opened_with(QUANTIZED, Dtype.bfloat16, quantization=Nf4Config()), Dtype.bfloat16)


def check_alone(engine: LocalEngine, dtype: Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare a pass in a single call with the model's own, for an adapter that all rows have."""
    loaded, heads, fused = with_fast_kernels(engine)
    assert fused is not None
    for with_prefix in (False, True):
        expected = all_logits(Forward(loaded.model, heads), with_prefix)
        forward = Forward(loaded.model, heads)
        forward.fused = fused
        logits = all_logits(forward, with_prefix)
        with monkeypatch.context() as patched:
            patched.setattr(FusedAdapters, "group_tokens_by_adapter", lambda *_: None)
            of_base = all_logits(forward, with_prefix)
        off = (logits - expected).abs()
        most = OFF[dtype] * expected.std()
        assert (off.max() if dtype == Dtype.float32 else off.mean()) <= most
        assert (of_base - expected).abs().mean() > 5 * off.mean(), "what the adapter changes is seen"


@pytest.mark.sampled(2)
@pytest.mark.parametrize("alone", ["wide", "narrow"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "deepseek_v2", "qwen2_moe", *HYBRIDS])
def test_an_adapter_that_all_rows_have(
    family: str, alone: str, opened_with: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_alone(opened_with(family, alone=alone), Dtype.float32, monkeypatch)


@pytest.mark.thorough
@pytest.mark.parametrize("quantization", [None, Nf4Config()])
def test_an_adapter_that_all_rows_have_in_bfloat16(
    quantization: Any, opened_with: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {} if quantization is None else {"quantization": quantization}
    engine = opened_with(QUANTIZED, Dtype.bfloat16, alone="wide", **groups)
    check_alone(engine, Dtype.bfloat16, monkeypatch)


@pytest.mark.thorough
@pytest.mark.parametrize("keys", [{"use_dora": True}, {"target_modules": ["q_proj", "lm_head"]}])
def test_what_is_more_than_two_products_goes_operation_by_operation(
    keys: dict[str, Any], tiny_llama: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(tmp_path / "adapter", tiny_llama, **{"target_modules": LINEAR, **keys})
    model = LocalModelConfig(name=str(tiny_llama), device="cpu", dtype=Dtype.float32)
    engine = open_engine(make_spec(model=model, lora=PeftConfig(str(adapter))))
    _, _, fused = with_fast_kernels(engine)
    engine.close()
    assert fused is None


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.thorough
def test_a_row_has_the_bits_that_it_has_alone(opened_with: Open, threads: int) -> None:
    """Also where so many others have its adapter that several tiles are full."""
    loaded, heads, fused = with_fast_kernels(opened_with("llama"))
    torch.set_num_threads(threads)
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(0, 60, (1 + at % 5,), generator=generator).tolist() for at in range(23)]
    names = [NAMES[(at + at // 5) % len(NAMES)] for at in range(len(prompts))]

    def logits(numbers: list[int]) -> torch.Tensor:
        rows = [TokenSequence(Request(at, (), adapter=names[at]), prompts[at], "", 9) for at in numbers]
        own = create_kv_store(heads, forward.kernels, [16] * len(rows))
        pieces = [TokenSpan(row, slot, row.pending_tokens) for slot, row in enumerate(rows)]
        read = forward.run_token_spans(own, pieces)
        for row in rows:
            row.kv.places, row.tokens = len(row.pending_tokens), [7]
        return torch.stack((read, forward.step(own, rows, forward.list_shared_prefixes(rows))), dim=1)

    together = logits([*range(len(prompts))])
    for at in range(len(prompts)):
        assert torch.equal(logits([at])[0], together[at]), names[at]


@contextmanager
def changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[AdaptedTokens], None]) -> Iterator[None]:
    """Let something be changed in what C is told of each pass."""
    of_pass = FusedAdapters.group_tokens_by_adapter

    def other(self: FusedAdapters, count: int) -> AdaptedTokens | None:
        if (made := of_pass(self, count)) is not None:
            change(made)
        return made

    with monkeypatch.context() as patched:
        patched.setattr(FusedAdapters, "group_tokens_by_adapter", other)
        yield


def tile_of(tokens: AdaptedTokens) -> AdapterTile:
    return AdapterTile.from_address(tokens.tile)


def exchange(tokens: AdaptedTokens) -> None:
    tile_of(tokens).adapter = (tile_of(tokens).adapter + 1) % tokens.adapters


@pytest.mark.thorough
def test_a_wrong_adapter_is_found_by_the_trial(opened_with: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened_with("llama")
    loaded, heads, fused = with_fast_kernels(engine)
    fast = engine._fast_layers
    assert fused is not None
    assert isinstance(fast, FastLayers)
    assert build_and_verify_fused_forward(loaded, heads, fast.packed_weights, fast.expert_layers) is not None
    with changed(monkeypatch, exchange):
        assert build_and_verify_fused_forward(loaded, heads, fast.packed_weights, fast.expert_layers) is None


def no_such_adapter(tokens: AdaptedTokens) -> None:
    tile_of(tokens).adapter = tokens.adapters


def too_many_rows(tokens: AdaptedTokens) -> None:
    tile_of(tokens).count = 7


def beyond_the_tokens(tokens: AdaptedTokens) -> None:
    tile_of(tokens).first = tokens.tokens


def too_many_tokens(tokens: AdaptedTokens) -> None:
    tokens.tokens = 10**6


@pytest.mark.thorough
@pytest.mark.parametrize("change", [no_such_adapter, too_many_rows, beyond_the_tokens, too_many_tokens])
def test_numbers_that_select_memory_are_checked(
    change: Callable[[AdaptedTokens], None], opened_with: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, heads, fused = with_fast_kernels(opened_with("llama"))
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    with changed(monkeypatch, change), pytest.raises(IndexError, match=refusal("WRONG_ADAPTER", ANY_PLACE)):
        all_logits(forward, False, NAMES)


@pytest.mark.thorough
def test_a_layer_that_nobody_computes_goes_operation_by_operation(opened_with: Open) -> None:
    engine = opened_with("llama")
    engine.load()
    model: Any = engine.loaded.model
    seen = FusedAdapters(model)
    with pytest.raises(NotFusable, match=r"adapters change model\.layers\.0\."):
        seen.check_adapted_layers_are_fusable(model, 2, [])
    seen.check_adapted_layers_are_fusable(model, 2, [model])
    assert not any(map(has_hooks_besides_adapter, model.modules()))
    handle = model.lm_head.register_forward_hook(lambda *_: None)
    assert has_hooks_besides_adapter(model.lm_head)
    handle.remove()
    assert not has_hooks_besides_adapter(nn.Linear(1, 1))

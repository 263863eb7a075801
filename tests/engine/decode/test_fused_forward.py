"""A forward pass in a single call: for plain Llamas only, and with the logits of their own pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import int8_checkpoints
import pytest
import torch
from forward_pass import all_logits, with_fast_kernels
from gguf_blocks import random_blocks
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer

from runner_base import processor
from runner_base.dtypes import Dtype
from runner_engine.decode import fast_layers, fused_forward
from runner_engine.decode.compat_probe import are_multi_token_logits_exact, build_and_verify_fused_forward
from runner_engine.decode.fast_layers import FastLayers
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.layouts import NotFusable
from runner_engine.decode.passes.forward import Forward, TokenSpan
from runner_engine.decode.sequences import TokenSequence
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.sequence_kv import SequenceKv
from runner_engine.kv_cache.shared_kv import create_kv_store
from runner_engine.local.engine import LocalEngine
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Fp4Config, Int8Config, Nf4Config
from runner_engine.quantization.torchao import Int8DynamicConfig
from runner_engine.sessions.base import Request
from runner_engine.settings.model import LocalModelConfig

pytestmark = pytest.mark.skipif(
    native.load_kernels() is None, reason="no C compiler is here, so nothing is called in C"
)
OFF = {Dtype.float32: 1e-5, Dtype.bfloat16: 0.05}  # of the logits' spread
PLAIN = QuantizationConfig()
MANY = 101  # rows whose own keys are read between the tiles of what all of them share


@pytest.fixture
def engine_of(
    opened: Callable[..., LocalEngine], saved_family: Callable[..., Path]
) -> Callable[..., LocalEngine]:
    def make(
        family: str, dtype: Dtype = Dtype.float32, quantization: QuantizationConfig = PLAIN, **settings: Any
    ) -> LocalEngine:
        folder = saved_family(family, **({"max_position_embeddings": 512} | settings))
        model = LocalModelConfig(name=str(folder), device="cpu", dtype=dtype)
        return opened(model=model, quantization=quantization)

    return make


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", list(OFF))
# biases; norms of queries and keys
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_its_logits_are_those_of_the_model(
    family: str, dtype: Dtype, engine_of: Callable[..., LocalEngine]
) -> None:
    kernels = native.load_kernels()
    assert kernels is not None
    loaded, heads, fused = with_fast_kernels(engine_of(family, dtype))
    assert fused is not None
    for with_prefix in (False, True):
        expected = all_logits(Forward(loaded.model, heads), with_prefix)
        forward = Forward(loaded.model, heads)
        forward.fused = fused
        for threads in (1, 3):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            logits = all_logits(forward, with_prefix)
            torch.set_num_threads(before)
            assert (logits - expected).abs().max() <= OFF[dtype] * expected.std()
        if dtype == Dtype.float32:
            assert (logits.argmax(-1) == expected.argmax(-1)).all()


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", list(OFF))
def test_many_rows_on_one_prefix_have_the_logits_that_few_have(
    dtype: Dtype, engine_of: Callable[..., LocalEngine]
) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of("llama", dtype))
    forward = Forward(loaded.model, heads)
    torch.manual_seed(0)
    prefix = Prefix(torch.randint(0, 60, (70,)).tolist())
    forward.prefill_prefix(prefix, 70)
    before = torch.get_num_threads()
    torch.set_num_threads(1)

    def last_step(prompts: list[list[int]]) -> torch.Tensor:
        own = create_kv_store(heads, forward.kernels, [64] * len(prompts))
        rows = [
            TokenSequence(Request(at, ()), prefix.tokens + ids, "", 9, kv=SequenceKv(prefix))
            for at, ids in enumerate(prompts)
        ]
        forward.run_token_spans(
            own, [TokenSpan(row, slot, row.pending_tokens) for slot, row in enumerate(rows)]
        )
        for row in rows:
            row.kv.places, row.tokens = len(row.pending_tokens), [5]
        forward.fused = fused
        logits = forward.step(own, rows, forward.list_shared_prefixes(rows))
        forward.fused = None
        return logits

    prompts = [torch.randint(0, 60, (1 + at % 37,)).tolist() for at in range(MANY)]
    together = last_step(prompts)
    apart = torch.cat([last_step(prompts[at : at + 3]) for at in range(0, MANY, 3)])
    torch.set_num_threads(before)
    assert torch.equal(together, apart)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("quantization", "family", "dtype"),
    [
        (Nf4Config(), "qwen2", Dtype.bfloat16),  # biases
        (Fp4Config(), "llama", Dtype.bfloat16),
        (Int8Config(), "qwen2", Dtype.bfloat16),
        (Int8Config(), "llama", Dtype.float32),
        (Int8DynamicConfig(), "qwen2", Dtype.bfloat16),
        (Int8DynamicConfig(), "llama", Dtype.float32),
    ],
    ids=lambda one: getattr(one, "name", None) or str(one),
)
def test_quantized_layers_go_in_the_same_call(
    quantization: QuantizationConfig, family: str, dtype: Dtype, engine_of: Callable[..., LocalEngine]
) -> None:
    kernels = native.load_kernels()
    assert kernels is not None
    loaded, heads, fused = with_fast_kernels(engine_of(family, dtype, quantization))
    assert fused is not None
    kinds = {
        fused.weights.layers[1].qkv[0].kind,
        fused.weights.layers[1].out.kind,
        fused.weights.layers[1].gated[1].kind,
    }
    of_bytes = {"int8": WeightFormat.row_int8, "int8_dynamic": WeightFormat.int8_dynamic}
    four_bit = WeightFormat.four_bit if processor.has_bfloat16_matmul() else WeightFormat.four_bit_rows
    assert kinds == {of_bytes.get(quantization.name, four_bit)}
    expected = all_logits(Forward(loaded.model, heads), with_prefix=True)
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    # in float32 attention adds up in another order, and a number of a row may then be rounded to
    # the next byte
    times = 2 if (quantization.name, dtype) == ("int8_dynamic", Dtype.float32) else 1
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        logits = all_logits(forward, with_prefix=True)
        torch.set_num_threads(before)
        assert (logits - expected).abs().max() <= times * OFF[Dtype.bfloat16] * expected.std()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["dynamic", "dynamic_tensor", "static", "static_zeros"])
@pytest.mark.parametrize("dtype", list(OFF))
def test_int8_rows_of_a_checkpoint_go_in_the_same_call(
    opened: Callable[..., LocalEngine], tmp_path: Path, tiny_llama: Path, name: str, dtype: Dtype
) -> None:
    kernels = native.load_kernels()
    assert kernels is not None
    int8_checkpoints.save(tmp_path, name, max_position_embeddings=512)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
    model = LocalModelConfig(name=str(tmp_path), device="cpu", dtype=dtype)
    loaded, heads, fused = with_fast_kernels(opened(model=model))
    assert fused is not None
    assert fused.is_by_row
    of_layer = fused.weights.layers[1]
    assert {of_layer.qkv[0].kind, of_layer.out.kind, of_layer.gated[1].kind} == {WeightFormat.int8_stored}
    layer = loaded.model.model.layers[1].mlp.down_proj
    assert of_layer.down.weight == layer.weight.data_ptr(), "the weights are read where they lie in the file"
    expected = all_logits(Forward(loaded.model, heads), with_prefix=True)
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    assert (all_logits(forward, with_prefix=True) - expected).abs().max() <= 2 * OFF[
        Dtype.bfloat16
    ] * expected.std()
    assert are_multi_token_logits_exact(forward, 60)


def test_rows_of_other_scales_keep_their_own_pass(
    opened: Callable[..., LocalEngine], tmp_path: Path, tiny_llama: Path
) -> None:
    int8_checkpoints.save(tmp_path, "static", max_position_embeddings=512)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file(
        tensors | {"model.layers.0.self_attn.k_proj.input_scale": torch.tensor([0.5])}, file, {"format": "pt"}
    )
    model = LocalModelConfig(name=str(tmp_path), device="cpu", dtype=Dtype.bfloat16)
    assert with_fast_kernels(opened(model=model))[2] is None


@pytest.mark.thorough
@pytest.mark.parametrize(("of_values", "goes"), [("Q6_K", True), ("Q8_0", False)])
def test_rows_in_bytes_go_in_the_same_call_where_as_many_inputs_share_their_scale(
    engine_of: Callable[..., LocalEngine], of_values: str, goes: bool
) -> None:
    engine = engine_of(
        "llama",
        hidden_size=256,
        intermediate_size=512,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
    )
    engine.load()
    for module in list(engine.loaded.model.model.layers.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear):
                kind = of_values if name == "v_proj" else "Q4_K"
                stored = random_blocks(kind, layer.out_features, layer.in_features)
                setattr(module, name, GgufLinear(layer, stored, kind, None, has_byte_rows=True))
    loaded, heads, fused = with_fast_kernels(engine)
    assert (fused is not None) == goes
    if fused is None:
        return
    expected = all_logits(Forward(loaded.model, heads), with_prefix=True)
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    assert (all_logits(forward, with_prefix=True) - expected).abs().max() <= OFF[
        Dtype.bfloat16
    ] * expected.std()
    assert are_multi_token_logits_exact(forward, 60)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [
        (Dtype.float32, PLAIN),
        (Dtype.bfloat16, PLAIN),
        (Dtype.bfloat16, Nf4Config()),
        (Dtype.bfloat16, Int8Config()),
        (Dtype.bfloat16, Int8DynamicConfig()),
    ],
    ids=lambda one: getattr(one, "name", None) or str(one),
)
def test_tokens_of_a_row_leave_together_what_they_leave_alone(
    dtype: Dtype, quantization: QuantizationConfig, engine_of: Callable[..., LocalEngine]
) -> None:
    """Bit by bit, over the ends of blocks of keys and beside other rows, but where outliers of one
    row are all rows'."""
    kernels = native.load_kernels()
    assert kernels is not None
    loaded, heads, fused = with_fast_kernels(
        engine_of("qwen2", dtype, quantization, max_position_embeddings=1024)
    )
    assert fused is not None
    assert fused.is_by_row == (quantization.name != "int8")
    if not fused.is_by_row:
        return
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    assert are_multi_token_logits_exact(forward, 60)
    torch.manual_seed(0)
    prefix = Prefix(torch.randint(0, 60, (37,)).tolist())
    forward.prefill_prefix(prefix, 99)
    others = [TokenSequence(Request(number, ()), [number, 7, 9], "", 99) for number in range(2)]
    for length, count in ((10, 9), (505, 6), (505, 20)):
        ids = torch.randint(0, 60, (length + count,)).tolist()
        row = TokenSequence(Request(9, ()), [*prefix.tokens, *ids[:length]], "", 99, kv=SequenceKv(prefix))
        own = create_kv_store(forward.heads, forward.kernels, [128, 600, 128])
        rows = [others[0], row, others[1]]
        forward.run_token_spans(
            own, [TokenSpan(one, slot, one.pending_tokens) for slot, one in enumerate(rows)]
        )
        for one in rows:
            one.kv.places, one.tokens = len(one.pending_tokens), []
        start, alone = row.kv.places, []
        for token in ids[length:]:
            for one in rows:
                one.tokens.append(token)
            alone.append(forward.step(own, rows, forward.list_shared_prefixes(rows))[1])
            for one in rows:
                one.kv.places += 1
        together = forward.run_token_spans(own, [TokenSpan(row, 1, row.tokens, start, targets=row.tokens)])
        assert torch.equal(torch.stack(alone), together)


@pytest.mark.thorough
def test_the_rope_table_grows_with_the_rows(
    engine_of: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_forward, "FIRST_POSITIONS", 3)
    loaded, heads, fused = with_fast_kernels(engine_of("llama", rope_theta=100.0))
    assert fused is not None
    assert fused.positions == loaded.metrics["max_positions"]
    fused._extend_rope_tables(100)
    cos, sin = loaded.model.model.rotary_emb(torch.zeros(1), torch.arange(100)[None])
    assert cos.shape[-1] == heads.dim
    for table, expected in zip(fused._rope_tables[0], (cos[0], sin[0]), strict=True):
        assert torch.equal(table[:100].repeat(1, 2), expected)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("dtype", list(OFF))
def test_a_pass_with_a_wrong_rotation_is_noticed_in_each_format(
    engine_of: Callable[..., LocalEngine], dtype: Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise of rounded numbers is averaged over a token's logits; what is wrong shows in all of
    them."""
    right = FusedForward._extend_rope_tables

    def exchanged(self: FusedForward, positions: int) -> None:
        right(self, positions)
        of_model = self.weights.model
        of_model.cos[0], of_model.sin[0] = of_model.sin[0], of_model.cos[0]

    assert with_fast_kernels(engine_of("llama", dtype))[2] is not None
    monkeypatch.setattr(FusedForward, "_extend_rope_tables", exchanged)
    assert with_fast_kernels(engine_of("llama", dtype))[2] is None


def test_a_function_that_c_does_not_know_stays_with_its_module(engine_of: Callable[..., LocalEngine]) -> None:
    fused = with_fast_kernels(engine_of("llama", hidden_act="tanh"))[2]
    assert fused is not None
    assert fused.has_separate_mlps


def test_a_model_with_hooks_keeps_its_own_pass(engine_of: Callable[..., LocalEngine]) -> None:
    engine = engine_of("llama")
    loaded, heads, _ = with_fast_kernels(engine)
    kernels = native.load_kernels()
    assert kernels is not None
    hook = loaded.model.model.layers[1].register_forward_hook(lambda *_: None)
    with pytest.raises(NotFusable, match="hooks"):
        FusedForward(loaded.model, heads, 64, kernels, {})
    assert build_and_verify_fused_forward(loaded, heads, {}, {}) is None
    hook.remove()
    assert (
        FusedForward(loaded.model, heads, 64, kernels, {}).weights.vocabulary == loaded.metrics["vocab_size"]
    )


def test_weights_lie_in_panels_once(engine_of: Callable[..., LocalEngine]) -> None:
    """The single call multiplies by the same weights as the layers, without another copy."""
    kernels = native.load_kernels()
    assert kernels is not None
    engine = engine_of("llama")
    engine.load()
    loaded = engine.loaded
    heads = engine.find_kv_spec(loaded)
    assert heads is not None
    layers = FastLayers(loaded.model, kernels)
    fused = FusedForward(loaded.model, heads, 64, kernels, layers.packed_weights)
    addresses = {one.weight.data_ptr() for one in layers.panels.values()}
    assert fused.weights.layers[0].down.weight in addresses
    assert fused.weights.model.head.weight in addresses
    layers.restore()


@pytest.mark.parametrize("dtype", list(OFF))
def test_rows_of_a_tied_embedding_come_from_the_panels_of_the_head(
    dtype: Dtype, engine_of: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_layers, "SHARED_BYTES", 1)
    monkeypatch.setattr(MappedFiles, "is_mapped_address", lambda *_: True)  # also where it is converted
    loaded, heads, fused = with_fast_kernels(engine_of("llama", dtype, tie_word_embeddings=True))
    assert fused is not None
    weights = fused.weights
    assert weights.unpack_rows is None
    assert weights.model.embedding == weights.model.head.weight
    expected = all_logits(Forward(loaded.model, heads), with_prefix=True)
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    assert (all_logits(forward, with_prefix=True) - expected).abs().max() <= OFF[dtype] * expected.std()
    weights.model.embedding_in_panels = 0  # the control: as if each row's numbers were side by side
    assert (all_logits(forward, with_prefix=True) - expected).abs().max() > expected.std()

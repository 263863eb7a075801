"""Each format of stored weights is read without its library: the same weights and logits, as small
as predicted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from changed_checkpoints import changed
from grouped_checkpoints import pack, plain_model
from loading import check_predicted_bytes, configure, load, logits
from stored_formats import CODED, FORMATS, GROUPED, INT8

from runner_base.dtypes import Dtype
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.kernels import native
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.models.base_loading import LoadedModel
from runner_engine.models.grouped_linear import GroupedLinear
from runner_engine.models.layouts.base import unpack_bits

Saved = Callable[..., Path]
UP = "model.layers.1.mlp.up_proj"  # 128 inputs, 192 outputs
EXACT = ("fp8", "fbgemm_fp8")  # the library does not round to bfloat16 first
DTYPES = [Dtype.float32, Dtype.bfloat16]


def check_facts(loaded: LoadedModel, name: str) -> None:
    of = FORMATS[name]
    assert loaded.facts["quantized"].startswith(f"{of.quantization.name}: ")
    assert loaded.metrics["quantized_share"] > 0.99
    assert loaded.facts["quantized"].endswith(f"(14 of 15 linear layers: 14 {of.layers})")
    assert loaded.facts["left_alone"] in ("model.embed_tokens", "model.embed_tokens, lm_head")
    assert "unused_tensors" not in {note.code for note in loaded.notes}


# ------------------------------------------------------------------------------------------- the
# library's numbers


def library(folder: Path, choice: str, dtype: torch.dtype) -> Any:
    """Return the model as its library computes it.

    On a CPU transformers unpacks `fp8` with the function that is called here; a whole model it
    leaves with weights in several number formats, which torch does not multiply. FBGEMM runs on
    GPUs only, so its weights are unpacked here.
    """
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, LlamaConfig
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    if choice not in ("fp8", "fbgemm_fp8"):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    tensors = load_file(folder / "model.safetensors")
    unpack: Any = Fp8Dequantize(None)._dequantize_one
    for scale in [name for name in tensors if name.endswith(("_scale", "_scale_inv"))]:
        if (weight := scale.replace("_scale_inv", "").removesuffix("_scale")) in tensors:
            tensors[weight] = unpack(tensors[weight], tensors.pop(scale), dtype)
    config = LlamaConfig.from_pretrained(folder)
    del config.quantization_config
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict({name: one for name, one in tensors.items() if "activation_scale" not in name})
    return model.eval()


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", CODED | INT8)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_library_gives_the_same_logits(saved_format: Saved, name: str, dtype: Dtype) -> None:
    folder, quantization = saved_format(name), FORMATS[name].quantization
    choice = quantization.name
    with torch.compiler.set_stance("force_eager"):  # BitNet's functions are compiled
        # the library has some of these only in bfloat16, since it unpacks to that
        has_one = choice.endswith("fp4_pack_quantized") or name == "bitnet_multiplied"
        theirs = library(folder, choice, torch.bfloat16 if has_one else getattr(torch, dtype.value))
        expected = logits(theirs)
    loaded = load(folder, quantization, dtype)
    check_facts(loaded, name)
    if name in INT8:
        assert loaded.metrics["parameters"] == sum(
            one.weight.numel()
            for one in theirs.modules()
            if isinstance(one, torch.nn.Linear | torch.nn.Embedding)
        ) + sum(one.numel() for path, one in theirs.named_parameters() if "norm" in path)
    found = logits(loaded)
    if (choice in EXACT or dtype is Dtype.bfloat16) and choice != "bitnet":
        assert torch.equal(found, expected)
        return
    # the library rounds to bfloat16 first, or (BitNet) sums of integers after the product; a row
    # that is near the middle between two codes then gets the other one, which is a step of a
    # seventh in four bits
    allowed = {"nvfp4_pack_quantized_rows": 0.3, "bitnet_multiplied": 0.15, "bitnet": 0.15}.get(name, 0.01)
    allowed = 1e-5 if name == "bitnet" and dtype is Dtype.float32 else allowed
    assert (found - expected).std() < allowed * expected.std()


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_stream_of_bits(bits: int) -> None:
    numbers = torch.randint(2**bits, (3, 70), generator=torch.Generator().manual_seed(bits))
    assert torch.equal(unpack_bits(pack(numbers, bits), bits, 70), numbers.byte())


@pytest.mark.thorough
@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_integers_in_groups_equal_their_plain_weights(saved_format: Saved, name: str, dtype: Dtype) -> None:
    loaded = load(saved_format(name), FORMATS[name].quantization, dtype)
    check_facts(loaded, name)
    of = getattr(torch, dtype.value)
    reference = plain_model(name, of)
    for path, layer in loaded.model.named_modules():
        if isinstance(layer, GroupedLinear):
            expected = reference.get_submodule(path).weight
            assert torch.equal(layer.dequantize_outputs(0, layer.out_features, of), expected), path
            assert torch.equal(layer.dequantize_outputs(9, 20, of), expected[9:20])
    assert torch.equal(logits(loaded), logits(reference))
    assert loaded.metrics["parameters"] == reference.num_parameters()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["pack_quantized", "pack_quantized_zeros", "pack_quantized_8_bits"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_compressed_tensors_unpacks_the_same_weights(saved_format: Saved, name: str, dtype: Dtype) -> None:
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    folder = saved_format(name)
    settings = CompressedTensorsConfig(dequantize=True)
    with pytest.warns(UserWarning, match="loading attributes"):  # of a setting that is an argument, too
        theirs: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype.value), quantization_config=settings
        )
    loaded = load(folder, FORMATS[name].quantization, dtype)
    for path, layer in loaded.model.named_modules():
        if isinstance(layer, GroupedLinear):  # it rounds to the number format of its scales first
            as_scales = layer.dequantize_outputs(0, layer.out_features, torch.bfloat16)
            assert torch.equal(theirs.get_submodule(path).weight, as_scales.to(theirs.dtype))
    expected = logits(theirs.eval())
    if dtype is Dtype.bfloat16:
        assert torch.equal(logits(loaded), expected)
    else:
        assert (logits(loaded) - expected).std() < 0.01 * expected.std()


# ----------------------------------------------------------------------------------- of each format


@pytest.mark.sampled(23)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_predicted_size_is_that_of_the_loaded_weights(
    saved_format: Saved, name: str, dtype: Dtype
) -> None:
    folder = saved_format(name)
    loaded = load(folder, dtype=dtype)  # the format is found without a choice
    check_facts(loaded, name)
    check_predicted_bytes(loaded, configure(folder, dtype=dtype))
    packed = sum(one.weight.nbytes for one in loaded.model.modules() if isinstance(one, GroupedLinear))
    assert loaded.metrics["mapped_weight_mib"] * 2**20 >= packed, "the codes stay in the file"


@pytest.mark.skipif(native.load_kernels() is None, reason="the kernels are not built here")
@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", CODED | INT8)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_engines_products_are_near_and_each_row_has_its_own(
    saved_format: Saved, name: str, dtype: Dtype
) -> None:
    loaded = load(saved_format(name), dtype=dtype)
    expected = logits(loaded)
    layers = QuantizedLayers(loaded.model, HeapTrimmer())
    assert layers.notes == []
    assert len(layers.replaced_layers) == 14
    # a row in bfloat16 that is near the middle between two codes of int8 may get the other one
    allowed = 0.1 if name in INT8 and dtype is Dtype.bfloat16 else 0.02
    assert (logits(loaded) - expected).std() < allowed * expected.std()
    layer = loaded.model.get_submodule(UP)
    rows = torch.randn(37, 128, generator=torch.Generator().manual_seed(1)).to(getattr(torch, dtype.value))
    rows[3] = 0
    rows[5] *= 100
    together = layer(rows)
    assert all(torch.equal(layer(rows[one : one + 1])[0], together[one]) for one in range(37))


@pytest.mark.thorough
@pytest.mark.parametrize("name", [*INT8, "gptq_order", "awq", "pack_quantized_8_bits"])
def test_a_tied_head_shards_and_the_engines_products(saved_format: Saved, tmp_path: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved_format(name, tie_word_embeddings=True)
    shards = tmp_path / "shards"
    shutil.copytree(folder, shards)
    tensors = load_file(folder / "model.safetensors")
    weight_map: dict[str, str] = {}
    (shards / "model.safetensors").unlink()
    for number in range(2):
        some = {key: tensor for place, (key, tensor) in enumerate(tensors.items()) if place % 2 == number}
        save_file(some, shards / f"model-{number}.safetensors", {"format": "pt"})
        weight_map |= dict.fromkeys(some, f"model-{number}.safetensors")
    (shards / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    loaded = load(shards, dtype=Dtype.float32)
    is_plain = name in GROUPED
    expected = logits(
        plain_model(name, torch.float32, tie_word_embeddings=True)
        if is_plain
        else load(folder, dtype=Dtype.float32)
    )
    assert torch.equal(logits(loaded), expected)
    layers = QuantizedLayers(loaded.model, HeapTrimmer())
    made = layers.matrices if is_plain else layers.replaced_layers
    assert len(made) == (14 if native.load_kernels() is not None else 0)
    if is_plain:
        assert torch.allclose(logits(loaded), expected, atol=2e-4)
    assert (logits(loaded) - expected).std() < 0.01 * expected.std()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["float_quantized", "int8_dynamic", "gptq"])
def test_a_bias_that_only_the_checkpoint_has_is_added(saved_format: Saved, tmp_path: Path, name: str) -> None:
    before = load(saved_format(name), dtype=Dtype.float32).model.get_submodule(UP)
    bias = torch.randn(192, generator=torch.Generator().manual_seed(0)).to(
        torch.half if name == "gptq" else torch.bfloat16
    )
    folder = changed(saved_format(name), tmp_path / "bias", lambda tensors: tensors | {f"{UP}.bias": bias})
    loaded = load(folder, dtype=Dtype.float32)
    check_facts(loaded, name)
    layer, rows = loaded.model.get_submodule(UP), torch.randn(3, 128)
    assert layer.report_name == FORMATS[name].layers
    assert torch.allclose(layer(rows), before(rows) + bias.float(), atol=1e-5)


# ---------------------------------------------------------------------------------- of float8 alone


def test_layers_that_are_not_whole_blocks(saved_format: Saved, tmp_path: Path) -> None:
    def other_blocks(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name in [name for name in tensors if name.endswith("_inv")]:
            outputs, inputs = tensors[name.removesuffix("_scale_inv")].shape
            tensors[name] = torch.rand(-(-outputs // 50), -(-inputs // 40)) / 4000
        return tensors

    folder = changed(saved_format("fp8"), tmp_path / "other", other_blocks)
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"]["weight_block_size"] = [50, 40]
    (folder / "config.json").write_text(json.dumps(settings))
    layer = load(folder, dtype=Dtype.float32).model.get_submodule(UP)
    stored = layer.stored
    outputs, inputs = torch.arange(192) // 50, torch.arange(128) // 40
    expected = stored["weight"].float() * stored["weight_scale_inv"][outputs][:, inputs]
    assert torch.equal(layer.dequantize_outputs(0, 192, torch.float32), expected)
    assert torch.equal(layer.dequantize_outputs(60, 180, torch.float32), expected[60:180])


def test_exponents_may_be_plain_bytes(saved_format: Saved, tmp_path: Path) -> None:
    expected = logits(load(saved_format("fp8_exponents"), dtype=Dtype.float32))

    def as_bytes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            name: one.view(torch.uint8) if name.endswith("_inv") else one for name, one in tensors.items()
        }

    folder = changed(saved_format("fp8_exponents"), tmp_path / "bytes", as_bytes)
    assert torch.equal(logits(load(folder, dtype=Dtype.float32)), expected)

"""Checkpoints of float8, four-bit and ternary weights are read without a library of theirs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coded_checkpoints as made
import pytest
import torch
from changed_checkpoints import Change, changed, with_one, without
from coded_checkpoints import CHOICE_OF, STORED
from opening import adapt, load_base
from resolving import predict
from transformers import AutoTokenizer

from runner.config.model import LocalConfig
from runner.config.root import RunnerConfig
from runner.core.dtypes import Dtype
from runner.core.errors import ConfigError
from runner.core.heap import Heap
from runner.engines.local.kernels import native
from runner.engines.local.matmul.quantized_layers import QuantizedLayers
from runner.models.float8_linear import Float8Linear
from runner.models.grouped import GroupedLinear
from runner.models.load import Loaded
from runner.quantization import read_format
from runner.quantization.base import QuantizationConfig
from runner.quantization.bitnet import BitnetConfig
from runner.quantization.float4 import Mxfp4Config, Nvfp4Config
from runner.quantization.float8 import FbgemmFp8Config, Float8Config, FloatQuantizedConfig

CONFIGS = (
    Float8Config, FbgemmFp8Config, FloatQuantizedConfig, Nvfp4Config, Mxfp4Config, BitnetConfig, QuantizationConfig,
)  # fmt: skip
Make = Callable[..., RunnerConfig]
IDS = torch.arange(3, 40)[None]
UP = "model.layers.1.mlp.up_proj"  # 128 inputs, 192 outputs
ROUNDING = {  # the layers of those whose rows are rounded
    **dict.fromkeys(("float_quantized", "float_quantized_tensor", "float_quantized_blocks"), "Float8Linear"),
    **dict.fromkeys(("bitnet", "bitnet_multiplied"), "TernaryLinear"),
    "nvfp4_pack_quantized_rows": "Nvfp4Linear",
}
EXACT = ("fp8", "fbgemm_fp8")  # the library does not round to bfloat16 first


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Callable[..., Path]:
    """Return a function that saves a tiny model in a format, once."""
    known: dict[str, Path] = {}

    def folder(name: str, **settings: Any) -> Path:
        key = repr((name, settings))
        if key not in known:
            known[key] = tmp_path_factory.mktemp(name)
            made.save(known[key], name, **settings)
            AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(known[key])
        return known[key]

    return folder


def configure(make_config: Make, folder: Path, dtype: Dtype = Dtype.float32, choice: str = "none") -> RunnerConfig:
    model = LocalConfig(name=str(folder), device="cpu", dtype=dtype)
    quantization: QuantizationConfig = next(one for one in CONFIGS if one.name == choice)()
    return make_config(model=model, quantization=quantization)


def load(make_config: Make, folder: Path, *arguments: Any) -> Loaded:
    config = configure(make_config, folder, *arguments)
    return adapt(load_base(config), config)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits.float()


def library(folder: Path, name: str, dtype: torch.dtype) -> Any:
    """Return the model as its library computes it.

    On a CPU transformers unpacks `fp8` with the function that is called here; a whole model it leaves with weights in
    several number formats, which torch does not multiply. FBGEMM runs on GPUs only, so its weights are unpacked here.
    """
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, LlamaConfig
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    if CHOICE_OF[name] not in ("fp8", "fbgemm_fp8"):
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
@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_the_library_gives_the_same_logits(make_config: Make, saved: Any, name: str, dtype: Dtype) -> None:
    folder, choice = saved(name), CHOICE_OF[name]
    with torch.compiler.set_stance("force_eager"):  # BitNet's functions are compiled
        # the library has some of these only in bfloat16, since it unpacks to that
        has_one = choice.endswith("fp4_pack_quantized") or name == "bitnet_multiplied"
        expected = logits(library(folder, name, torch.bfloat16 if has_one else getattr(torch, dtype.value)))
    loaded = load(make_config, folder, dtype, choice)
    kind = ROUNDING.get(name, "GroupedLinear")
    assert loaded.facts["quantized"] == f"{choice}: 14 of 15 linear layers (14 {kind})"
    assert loaded.facts["left_alone"] == "lm_head"
    assert not any("no use for" in note for note in loaded.notes)
    found = logits(loaded.model)
    if (choice in EXACT or dtype is Dtype.bfloat16) and choice != "bitnet":
        assert torch.equal(found, expected)
        return
    # the library rounds to bfloat16 first, or (BitNet) sums of integers after the product; a row that is near the middle
    # between two codes then gets the other one, which is a step of a seventh in four bits
    allowed = {"nvfp4_pack_quantized_rows": 0.3, "bitnet_multiplied": 0.15, "bitnet": 0.15}.get(name, 0.01)
    allowed = 1e-5 if name == "bitnet" and dtype is Dtype.float32 else allowed
    assert (found - expected).std() < allowed * expected.std()


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_the_predicted_size_is_that_of_the_loaded_weights(
    make_config: Make, saved: Any, name: str, dtype: Dtype
) -> None:
    folder = saved(name)
    loaded = load(make_config, folder, dtype)
    assert loaded.facts["quantized"].startswith(f"{CHOICE_OF[name]}: 14 of 15 linear layers")
    predicted = predict(configure(make_config, folder, dtype), 2, 8, 8)
    assert predicted is not None
    buffers = sum(buffer.nbytes for buffer in loaded.model.buffers())
    assert sum(predicted.weights.values()) == sum(loaded.bytes_by_dtype.values()) - buffers
    packed = sum(one.weight.nbytes for one in loaded.model.modules() if isinstance(one, GroupedLinear))
    assert loaded.metrics["mapped_weight_mib"] * 2**20 >= packed, "the codes stay in the file"


@pytest.mark.skipif(native.kernels() is None, reason="the kernels are not built here")
@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_engines_products_are_near_and_each_row_has_its_own(
    make_config: Make, saved: Any, name: str, dtype: torch.dtype
) -> None:
    loaded = load(make_config, saved(name), Dtype(str(dtype).removeprefix("torch.")))
    expected = logits(loaded.model)
    layers = QuantizedLayers(loaded.model, Heap())
    assert layers.notes == []
    assert len(layers.exchanged) == 14
    assert (logits(loaded.model) - expected).std() < 0.02 * expected.std()
    layer = loaded.model.get_submodule(UP)
    rows = torch.randn(37, 128, generator=torch.Generator().manual_seed(1)).to(dtype)
    rows[3] = 0
    rows[5] *= 100
    together = layer(rows)
    assert all(torch.equal(layer(rows[one : one + 1])[0], together[one]) for one in range(37))


def test_layers_that_are_not_whole_blocks(make_config: Make, saved: Any, tmp_path: Path) -> None:
    def other_blocks(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name in [name for name in tensors if name.endswith("_inv")]:
            outputs, inputs = tensors[name.removesuffix("_scale_inv")].shape
            tensors[name] = torch.rand(-(-outputs // 50), -(-inputs // 40)) / 4000
        return tensors

    folder = changed(saved("fp8"), tmp_path / "other", other_blocks)
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"]["weight_block_size"] = [50, 40]
    (folder / "config.json").write_text(json.dumps(settings))
    layer = load(make_config, folder).model.get_submodule(UP)
    stored = layer.stored
    outputs, inputs = torch.arange(192) // 50, torch.arange(128) // 40
    expected = stored["weight"].float() * stored["weight_scale_inv"][outputs][:, inputs]
    assert torch.equal(layer.unpacked(0, 192, torch.float32), expected)
    assert torch.equal(layer.unpacked(60, 180, torch.float32), expected[60:180])


def test_exponents_may_be_plain_bytes(make_config: Make, saved: Any, tmp_path: Path) -> None:
    expected = logits(load(make_config, saved("fp8_exponents")).model)

    def as_bytes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: one.view(torch.uint8) if name.endswith("_inv") else one for name, one in tensors.items()}

    folder = changed(saved("fp8_exponents"), tmp_path / "bytes", as_bytes)
    assert torch.equal(logits(load(make_config, folder).model), expected)


def test_a_bias_that_only_the_checkpoint_has_is_added(make_config: Make, saved: Any, tmp_path: Path) -> None:
    before = load(make_config, saved("float_quantized"))
    bias = torch.randn(192, generator=torch.Generator().manual_seed(0)).bfloat16()
    loaded = load(
        make_config, changed(saved("float_quantized"), tmp_path / "bias", lambda one: one | {f"{UP}.bias": bias})
    )
    rows = torch.randn(3, 128)
    expected = before.model.get_submodule(UP)(rows) + bias.float()
    assert isinstance(loaded.model.get_submodule(UP), Float8Linear)
    assert torch.allclose(loaded.model.get_submodule(UP)(rows), expected, atol=1e-5)


# ------------------------------------------------------------------------------------------- what is refused


def with_nan(one: torch.Tensor) -> torch.Tensor:
    one.view(torch.uint8)[5, 7] = 0xFF
    return one


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("fp8", with_one(f"{UP}.weight", lambda one: one[:-1]), r"up_proj\.weight: \[191, 128\], and a layer of 128 inputs, 192 outputs has \[192, 128\]"),
        ("fp8", with_one(f"{UP}.weight", lambda one: one.view(torch.uint8)), r"up_proj\.weight: U8, and F8_E4M3 expected"),
        ("fp8", with_one(f"{UP}.weight", lambda one: one.float().to(torch.float8_e5m2)), r"up_proj\.weight: F8_E5M2, and F8_E4M3 expected"),
        ("fp8", with_one(f"{UP}.weight", with_nan), r"up_proj\.weight: a weight is not a number"),
        ("fp8", with_one(f"{UP}.weight_scale_inv", lambda one: one.T), r"up_proj\.weight_scale_inv: \[4, 3\], .* has \[3, 4\]"),
        ("fp8", with_one(f"{UP}.weight_scale_inv", lambda one: one * float("nan")), r"weight_scale_inv: a scale is not a finite number"),
        ("fp8", with_one(f"{UP}.weight_scale_inv", lambda one: one.int()), r"weight_scale_inv: I32, and F16 or BF16 or F32 or F8_E8M0 or U8 expected"),
        ("fp8", without(f"{UP}.weight_scale_inv"), r"up_proj\.weight belong to no layer: the checkpoint lacks the weight_scale_inv"),
        ("fp8", without(f"{UP}.weight"), r"up_proj\.weight_scale_inv: the checkpoint lacks its weight"),
        ("fp8_exponents", with_one(f"{UP}.weight_scale_inv", lambda one: one.view(torch.uint8) | 255), r"weight_scale_inv: a scale is not a finite number"),
        ("fp8_tensor", with_one(f"{UP}.weight_scale_inv", lambda one: one.repeat(192)), r"weight_scale_inv: \[192\], .* has \[\] or \[1\]"),
        ("fbgemm_fp8", with_one(f"{UP}.weight_scale", lambda one: one / 0), r"up_proj\.weight_scale: a scale is not a finite number"),
        ("fbgemm_fp8", without(f"{UP}.weight_scale"), r"up_proj\.weight belong to no layer: the checkpoint lacks the weight_scale"),
        ("float_quantized", with_one(f"{UP}.weight_scale", lambda one: one[1:]), r"up_proj\.weight_scale: \[191, 1\], .* has \[192, 1\] or \[192\]"),
        ("float_quantized_tensor", without(f"{UP}.input_scale"), r"up_proj\.weight: the checkpoint lacks its input_scale"),
        ("float_quantized_tensor", with_one(f"{UP}.input_scale", lambda one: one * 0), r"up_proj\.input_scale: a scale is not above 0"),
        ("mxfp4_pack_quantized", with_one(f"{UP}.weight_packed", lambda one: one[:, 1:]), r"up_proj\.weight_packed: \[192, 63\], .* has \[192, 64\]"),
        ("mxfp4_pack_quantized", with_one(f"{UP}.weight_packed", lambda one: one.int()), r"up_proj\.weight_packed: I32, and U8 expected"),
        ("mxfp4_pack_quantized", with_one(f"{UP}.weight_scale", lambda one: one | 255), r"up_proj\.weight_scale: a scale is not a finite number"),
        ("mxfp4_pack_quantized", with_one(f"{UP}.weight_scale", lambda one: one[:, :1]), r"up_proj\.weight_scale: \[192, 1\], .* has \[192, 4\]"),
        ("mxfp4_pack_quantized", with_one(f"{UP}.weight_scale", lambda one: one * 0 + 254), r"up_proj\.weight_scale: a weight would not be a finite number"),
        ("nvfp4_pack_quantized", with_one(f"{UP}.weight_global_scale", lambda one: one * 0 + 1e-40), r"weight_global_scale: a weight would not be a finite number"),
        ("nvfp4_pack_quantized", with_one(f"{UP}.weight_scale", lambda one: (one.view(torch.uint8) | 127).view(torch.float8_e4m3fn)), r"weight_scale: a scale is not a finite"),
        ("nvfp4_pack_quantized", with_one(f"{UP}.weight_global_scale", lambda one: one * 0), r"weight_global_scale: the scale of the layer is not a finite number above 0"),
        ("nvfp4_pack_quantized", with_one(f"{UP}.weight_global_scale", lambda one: one * float("nan")), r"weight_global_scale: the scale of the layer is not a finite"),
        ("nvfp4_pack_quantized", with_one(f"{UP}.weight_global_scale", lambda one: one.repeat(192)), r"weight_global_scale: \[192\], .* has \[\] or \[1\]"),
        ("nvfp4_pack_quantized", without(f"{UP}.weight_global_scale"), r"up_proj\.weight_packed: the checkpoint lacks its weight_global_scale"),
        ("nvfp4_pack_quantized", without(f"{UP}.weight_packed"), r"up_proj\.weight_global_scale.* belong to no layer: the checkpoint lacks the weight_packed"),
        ("nvfp4_pack_quantized_rows", without(f"{UP}.input_global_scale"), r"up_proj\.weight_packed: the checkpoint lacks its input_global_scale"),
        ("bitnet", with_one(f"{UP}.weight", lambda one: one | 3), r"up_proj\.weight: a code of 3 stands for no weight"),
        ("bitnet", with_one(f"{UP}.weight", lambda one: one[1:]), r"up_proj\.weight: \[47, 128\], .* has \[48, 128\]"),
        ("bitnet", with_one(f"{UP}.weight_scale", lambda one: -one), r"up_proj\.weight_scale: the scale of the layer is not a finite number above 0"),
        ("bitnet", with_one(f"{UP}.weight_scale", lambda one: one.int()), r"up_proj\.weight_scale: I32, and F16 or BF16 or F32 expected"),
        ("bitnet", without(f"{UP}.weight_scale"), r"up_proj\.weight belong to no layer: the checkpoint lacks the weight_scale"),
        ("float_quantized_weights", with_one("model.layers.9.mlp.up_proj.weight_scale", lambda _: torch.ones(1)), r"layers\.9\.mlp\.up_proj\.weight_scale: LlamaForCausalLM has no linear layer of this name"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused_by_name(
    make_config: Make, saved: Any, tmp_path: Path, name: str, change: Change, message: str
) -> None:
    folder = changed(saved(name), tmp_path / "changed", change)
    with pytest.raises(ConfigError, match=message) as refused:
        load(make_config, folder)
    assert str(folder) in str(refused.value)


def test_a_truncated_file_is_refused(make_config: Make, saved: Any, tmp_path: Path) -> None:
    folder = tmp_path / "truncated"
    shutil.copytree(saved("fp8"), folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(ConfigError, match="truncated"):
        load(make_config, folder)


def test_a_quantized_head_that_is_tied_is_refused(make_config: Make, saved: Any, tmp_path: Path) -> None:
    head = {"lm_head.weight": torch.ones(259, 128).to(torch.float8_e4m3fn), "lm_head.weight_scale": torch.ones(259, 1)}
    folder = changed(saved("fbgemm_fp8", tie_word_embeddings=True), tmp_path / "tied", lambda tensors: tensors | head)
    with pytest.raises(ConfigError, match=r"lm_head\.weight: config\.json ties the head to the embedding"):
        load(make_config, folder)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (made.BLOCKS | {"weight_block_size": [0, 128]}, r"fp8 .* weight_block_size=\[0, 128\]: two whole numbers"),
        (made.BLOCKS | {"weight_block_size": [128]}, r"fp8 .* weight_block_size=\[128\]: two whole numbers"),
        (made.BLOCKS | {"weight_block_size": [128, 10**12]}, r"fp8 .* weight_block_size=\[128, 1000000000000\]: two"),
        (made.BLOCKS | {"weight_block_size": "big"}, "fp8 .* weight_block_size='big': two whole numbers"),
        (made.BLOCKS | {"weight_block_size": 128}, "fp8 .* weight_block_size=128: two whole numbers"),
        (made.BLOCKS | {"expert_dtype": "fp4"}, "fp8 .* expert_dtype='fp4': the runner reads fp8"),
        (made.scheme(made.TOKEN | {"num_bits": 4}), "float_quantized .* its rows are num_bits=4 type=float dynamic=True"),
        (made.scheme(made.TOKEN | {"dynamic": "local"}), "float_quantized .* its rows are .* dynamic=local"),
        (made.scheme(made.GROUP | {"group_size": 0}), "float_quantized .* its rows are .* group_size=0"),
        (made.scheme(made.STATIC | {"strategy": "token"}), "float_quantized .* its rows are .* dynamic=False"),
        (made.scheme([8]), r"float_quantized .* input_activations=\[8\]: a JSON object expected"),
        (made.scheme(None, "token"), "float_quantized .* its weights are num_bits=8 type=float symmetric=True strategy=token"),
        (made.scheme(None, "group", group_size="x"), "float_quantized .* its weights have group_size=x"),
        (made.scheme(None, "block", block_structure=[-1, 2]), r"float_quantized .* block_structure=\[-1, 2\]"),
        (made.scheme(None, kv_cache_scheme={"num_bits": 8}), "float_quantized .* it has a kv_cache_scheme"),
        (made.float4_scheme("mxfp4-pack-quantized", 10**9), "mxfp4_pack_quantized .* its weights are .* group_size=1000000000"),
        (made.float4_scheme("mxfp4-pack-quantized", 32, made.LOCAL), "mxfp4_pack_quantized .* its rows are quantized, too"),
        (made.float4_scheme("nvfp4-pack-quantized", 16, made.TOKEN), "nvfp4_pack_quantized .* its rows are num_bits=8"),
        (made.float4_scheme("nvfp4-pack-quantized", 16, [4]), r"nvfp4_pack_quantized .* input_activations=\[4\]"),
        ({"quant_method": "bitnet", "linear_class": "mine"}, "bitnet .* linear_class='mine': the runner reads bitlinear"),
        ({"quant_method": "bitnet", "quantization_mode": "online"}, "bitnet .* quantization_mode='online'"),
        ({"quant_method": "bitnet", "use_rms_norm": True}, "bitnet .* use_rms_norm=True"),
        (made.scheme(None, config_groups={
            str(number): made.scheme(rows)["config_groups"]["group_0"] for number, rows in enumerate((None, made.STATIC))
        }), "float_quantized .* its groups of layers have different settings"),
    ],
)  # fmt: skip
def test_settings_that_the_runner_does_not_read_are_refused_before_weights(
    make_config: Make, saved: Any, tmp_path: Path, stored: Any, message: str
) -> None:
    found = read_format({"quantization_config": stored})
    assert found is not None
    assert found.refusal
    folder = tmp_path / "model"
    shutil.copytree(saved("float_quantized"), folder)
    settings = json.loads((folder / "config.json").read_text()) | {"quantization_config": stored}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").write_bytes(b"no weights: reading them would be another error")
    with pytest.raises(ConfigError, match=message):
        load(make_config, folder)

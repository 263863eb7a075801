"""Checkpoints of GPTQ, AWQ, AutoRound and compressed-tensors are read without any of these packages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grouped_checkpoints as made
import pytest
import torch
from grouped_checkpoints import CHOICE_OF, STORED
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
from runner.models.group_layouts import unpack_stream
from runner.models.grouped import GroupedLinear
from runner.models.load import Loaded
from runner.quantization import CHOICES
from runner.quantization.base import QuantizationConfig
from runner.quantization.grouped import AutoRoundConfig, AwqConfig, GptqConfig
from runner.quantization.pack_quantized import PackQuantizedConfig

Make = Callable[..., RunnerConfig]
IDS = torch.arange(3, 40)[None]
CLASSES = (AutoRoundConfig, AwqConfig, GptqConfig, PackQuantizedConfig)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Return a function that saves a tiny model in a format, once, and returns the folder and its plain weights."""
    known: dict[str, tuple[Path, dict[str, Any]]] = {}

    def folder(name: str, **settings: Any) -> tuple[Path, dict[str, Any]]:
        key = repr((name, settings))
        if key not in known:
            path = tmp_path_factory.mktemp(name)
            known[key] = path, made.save(path, name, **settings)
            AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(path)
        return known[key]

    return folder


def configure(
    make_config: Make, folder: Path, choice: QuantizationConfig | None = None, dtype: Dtype = Dtype.float32, **more: Any
) -> RunnerConfig:
    model = LocalConfig(name=str(folder), device="cpu", dtype=dtype)
    return make_config(model=model, quantization=choice or QuantizationConfig(), **more)


def load(make_config: Make, folder: Path, *arguments: Any, **more: Any) -> Loaded:
    config = configure(make_config, folder, *arguments, **more)
    return adapt(load_base(config), config)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits.float()


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_stream_of_bits(bits: int) -> None:
    numbers = torch.randint(2**bits, (3, 70), generator=torch.Generator().manual_seed(bits))
    assert torch.equal(unpack_stream(made.pack(numbers, bits), bits, 70), numbers.byte())


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_each_format_equals_its_plain_weights(make_config: Make, saved: Any, name: str, dtype: Dtype) -> None:
    from transformers import AutoConfig, LlamaForCausalLM

    folder, plain = saved(name)
    choice = CHOICES[CHOICE_OF[name]]()
    assert isinstance(choice, CLASSES)
    loaded = load(make_config, folder, choice, dtype)
    layers = [one for one in loaded.model.modules() if isinstance(one, GroupedLinear)]
    assert len(layers) == 14
    of = getattr(torch, dtype.value)
    for path, layer in loaded.model.named_modules():
        if isinstance(layer, GroupedLinear):
            expected = plain[f"{path}.weight"].to(of)
            assert torch.equal(layer.unpacked(0, layer.out_features, of), expected), path
            assert torch.equal(layer.unpacked(9, 20, of), expected[9:20])
    assert loaded.facts["quantized"] == f"{choice.name}: 14 of 15 linear layers (14 GroupedLinear)"
    assert loaded.facts["left_alone"] == "lm_head"
    settings = AutoConfig.from_pretrained(folder)
    del settings.quantization_config
    reference = LlamaForCausalLM._from_config(settings, dtype=of).eval()
    reference.load_state_dict({key: tensor.to(of) for key, tensor in plain.items()})
    assert torch.equal(logits(loaded.model), logits(reference))
    assert loaded.metrics["parameters"] == reference.num_parameters()


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_the_predicted_size_is_that_of_the_loaded_weights(
    make_config: Make, saved: Any, name: str, dtype: Dtype
) -> None:
    folder, _ = saved(name)
    loaded = load(make_config, folder, None, dtype)
    assert loaded.facts["quantized"] == f"{CHOICE_OF[name]}: 14 of 15 linear layers (14 GroupedLinear)"
    predicted = predict(configure(make_config, folder, None, dtype), 2, 8, 8)
    assert predicted is not None
    buffers = sum(buffer.nbytes for buffer in loaded.model.buffers())
    assert sum(predicted.weights.values()) == sum(loaded.bytes_by_dtype.values()) - buffers
    packed = sum(one.weight.nbytes for one in loaded.model.modules() if isinstance(one, GroupedLinear))
    assert loaded.metrics["mapped_weight_mib"] * 2**20 >= packed, "the codes stay in the file"


@pytest.mark.parametrize("name", ["gptq_order", "awq", "pack_quantized_8_bits"])
def test_a_tied_head_shards_and_the_engines_products(
    make_config: Make, saved: Any, tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, LlamaForCausalLM

    folder, plain = saved(name, tie_word_embeddings=True)
    shards = tmp_path / "shards"
    shutil.copytree(folder, shards)
    tensors = load_file(folder / "model.safetensors")
    weight_map: dict[str, str] = {}
    (shards / "model.safetensors").unlink()
    for number in range(2):
        some = {key: tensor for place, (key, tensor) in enumerate(tensors.items()) if place % 2 == number}
        save_file(some, shards / f"model-{number}.safetensors", {"format": "pt"})
        weight_map |= dict.fromkeys(some, f"model-{number}.safetensors")
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    loaded = load(make_config, shards)
    settings = AutoConfig.from_pretrained(folder)
    del settings.quantization_config
    reference = LlamaForCausalLM._from_config(settings, dtype=torch.float32).eval()
    reference.load_state_dict({key: tensor.float() for key, tensor in plain.items()})
    assert torch.equal(logits(loaded.model), logits(reference))
    layers = QuantizedLayers(loaded.model, Heap())
    assert len(layers.matrices) == (14 if native.kernels() is not None else 0)
    assert torch.allclose(logits(loaded.model), logits(reference), atol=2e-4)


def test_a_bias_that_only_the_checkpoint_has_is_added(make_config: Make, saved: Any, tmp_path: Path) -> None:
    folder, _ = saved("gptq")
    before = load(make_config, folder)
    path = "model.layers.0.mlp.down_proj"
    bias = torch.randn(128, generator=torch.Generator().manual_seed(0)).half()
    loaded = load(make_config, changed(folder, tmp_path / "bias", lambda tensors: tensors | {f"{path}.bias": bias}))
    layer = loaded.model.get_submodule(path)
    rows = torch.randn(3, layer.in_features)
    expected = before.model.get_submodule(path)(rows) + bias.float()
    assert torch.allclose(layer(rows), expected, atol=1e-5)
    assert not any("no use for" in note for note in loaded.notes)


@pytest.mark.parametrize("name", ["pack_quantized", "pack_quantized_zeros", "pack_quantized_8_bits"])
@pytest.mark.parametrize("dtype", [Dtype.bfloat16, Dtype.float32])
def test_compressed_tensors_itself_gives_the_same_logits(
    make_config: Make, saved: Any, name: str, dtype: Dtype
) -> None:
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    folder, _ = saved(name)
    settings = CompressedTensorsConfig(dequantize=True)
    with pytest.warns(UserWarning, match="loading attributes"):  # of a setting that is an argument, too
        theirs: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype.value), quantization_config=settings
        )
    loaded = load(make_config, folder, PackQuantizedConfig(), dtype)
    for path, layer in loaded.model.named_modules():
        if isinstance(layer, GroupedLinear):  # it rounds to the number format of its scales first
            as_scales = layer.unpacked(0, layer.out_features, torch.bfloat16)
            assert torch.equal(theirs.get_submodule(path).weight, as_scales.to(theirs.dtype))
    if dtype is Dtype.bfloat16:
        assert torch.equal(logits(loaded.model), logits(theirs.eval()))
    else:
        assert (logits(loaded.model) - logits(theirs.eval())).std() < 0.01 * logits(theirs).std()


# ------------------------------------------------------------------------------------------- what is refused

UP = "model.layers.1.mlp.up_proj"  # 128 inputs, 192 outputs
Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def changed(folder: Path, to: Path, change: Change) -> Path:
    """Copy a checkpoint and change its tensors."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, to)
    tensors = change(load_file(to / "model.safetensors"))
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, to / "model.safetensors", {"format": "pt"})
    return to


def without(name: str) -> Change:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def with_one(name: str, make: Callable[[Any], torch.Tensor]) -> Change:
    return lambda tensors: tensors | {name: make(tensors.get(name))}


def at(place: Any, value: float) -> Callable[[Any], torch.Tensor]:
    def put(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[place] = value
        return tensor

    return put


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gptq", with_one(f"{UP}.qweight", lambda one: one[:-1]), r"up_proj\.qweight: \[15, 192\] for 128 inputs: 2 to 8 bits"),
        ("gptq", with_one(f"{UP}.qweight", lambda one: one[:, :-1]), r"up_proj\.qweight: \[16, 191\], and a layer of 128 inputs, 192"),
        ("gptq", with_one(f"{UP}.qweight", lambda one: one.flatten()), r"up_proj\.qweight: .*matrices expected"),
        ("gptq", with_one(f"{UP}.qweight", lambda one: one.long()), r"up_proj\.qweight: I64, and I32 expected"),
        ("gptq", with_one(f"{UP}.qweight", lambda one: one[:0]), r"up_proj\.qweight: \[0, 192\] for 128 inputs"),
        ("gptq", with_one(f"{UP}.qzeros", lambda one: one[:2]), r"up_proj\.qzeros: \[2, 24\], .* has \[4, 24\]"),
        ("gptq", with_one(f"{UP}.scales", lambda one: one[:0]), r"up_proj\.scales: \[0, 192\] for 128 inputs in groups of 32"),
        ("gptq", with_one(f"{UP}.scales", lambda one: one[:3]), r"up_proj\.scales: \[3, 192\] for 128 inputs in groups of 32"),
        ("gptq", with_one(f"{UP}.scales", lambda one: one.int()), r"up_proj\.scales: I32, and F16 or BF16 or F32 expected"),
        ("gptq", with_one(f"{UP}.scales", at((0, 3), float("nan"))), r"up_proj\.scales: a scale is not a finite number"),
        ("awq", with_one(f"{UP}.scales", at((0, 3), float("inf"))), r"up_proj\.scales: a scale is not a finite number"),
        ("gptq_order", with_one(f"{UP}.g_idx", at(5, 4)), r"up_proj\.g_idx: an input is in group 4, and there are 4"),
        ("gptq_order", with_one(f"{UP}.g_idx", at(5, -7)), r"up_proj\.g_idx: an input is in group -7"),
        ("gptq_order", with_one(f"{UP}.g_idx", lambda one: one[:-1]), r"up_proj\.g_idx: \[127\]"),
        ("gptq_order", with_one(f"{UP}.g_idx", lambda one: one.float()), r"up_proj\.g_idx: F32, and I32 or I64 expected"),
        ("gptq", without(f"{UP}.qzeros"), r"up_proj\.qweight: the checkpoint lacks its qzeros"),
        ("gptq", without(f"{UP}.qweight"), r"up_proj\.qzeros.* belong to no layer: the checkpoint lacks the qweight"),
        ("awq", with_one("model.layers.0.mlp.act.scales", lambda _: torch.ones(3)), r"act\.scales belong to no layer"),
        ("awq", with_one("model.layers.7.mlp.up_proj.qweight", lambda _: torch.ones(8, 1).int()), r"layers\.7\.mlp\.up_proj\.qweight: LlamaForCausalLM has no linear layer of this name"),
        ("awq", with_one(f"{UP}.bias", lambda _: torch.ones(3)), r"up_proj\.bias: \[3\], and the layer has 192 outputs"),
        ("awq", lambda tensors: {key: one for key, one in tensors.items() if not key.startswith(UP)}, r"not complete: it lacks .*up_proj\.weight"),
        ("pack_quantized", with_one(f"{UP}.weight_packed", lambda one: one[:, 1:]), r"up_proj\.weight_packed: \[192, 15\] for 128 inputs of 4 bits"),
        ("pack_quantized", with_one(f"{UP}.weight_shape", lambda _: torch.tensor([192, 2**40])), r"up_proj\.weight_shape: \[192, 1099511627776\], and the layer is \[192, 128\]"),
        ("pack_quantized", with_one(f"{UP}.weight_scale", at((0, 0), float("-inf"))), r"up_proj\.weight_scale: a scale is not"),
        ("pack_quantized_zeros", with_one(f"{UP}.weight_zero_point", lambda one: one[1:]), r"up_proj\.weight_zero_point: \[23, 4\]"),
        ("pack_quantized_order", with_one(f"{UP}.weight_g_idx", at(0, 99)), r"up_proj\.weight_g_idx: an input is in group 99"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused_by_name(
    make_config: Make, saved: Any, tmp_path: Path, name: str, change: Change, message: str
) -> None:
    folder = changed(saved(name)[0], tmp_path / "changed", change)
    with pytest.raises(ConfigError, match=message) as refused:
        load(make_config, folder)
    assert str(folder) in str(refused.value)


def test_a_truncated_file_and_a_header_that_lies_are_refused(make_config: Make, saved: Any, tmp_path: Path) -> None:
    for name, edit in {
        "truncated": lambda content: content[:-100],
        "lying": lambda content: content.replace(b'"shape":[16,192]', b'"shape":[99,192]'),
    }.items():
        folder = tmp_path / name
        shutil.copytree(saved("gptq")[0], folder)
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(edit(content))
        with pytest.raises(ConfigError, match=r"truncated: tensor|of shape \[99, 192\] needs 76032 bytes"):
            load(make_config, folder)


def test_a_quantized_head_that_is_tied_is_refused(make_config: Make, saved: Any, tmp_path: Path) -> None:
    folder = changed(
        saved("gptq", tie_word_embeddings=True)[0],
        tmp_path / "tied",
        with_one("lm_head.qweight", lambda _: torch.ones(16, 259, dtype=torch.int32)),
    )
    with pytest.raises(ConfigError, match=r"lm_head\.qweight: config\.json ties the head to the embedding"):
        load(make_config, folder)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (STORED["gptq"] | {"bits": 77}, r"quantization_config\.bits=77: a whole number from 2 to 8"),
        (STORED["gptq"] | {"bits": "four"}, r"quantization_config\.bits='four'"),
        (STORED["gptq"] | {"group_size": 0}, r"quantization_config\.group_size=0: -1, or a whole number from 1"),
        (STORED["awq"] | {"group_size": [8]}, r"quantization_config\.group_size=\[8\]"),
        (STORED["awq"] | {"bits": 8}, r"quantization_config\.bits=8: AWQ's layout has 4"),
        (STORED["gptq"] | {"checkpoint_format": "marlin"}, r"gptq by gptq, which cannot be loaded: checkpoint_format='marlin': the runner reads gptq, gptq_v2"),
        (STORED["awq"] | {"version": "gemv"}, r"version='gemv': the runner reads gemm"),
        (STORED["auto_round"] | {"act_bits": 8}, r"auto_round by auto-round, which cannot be loaded: act_bits=8"),
        (STORED["auto_round"] | {"packing_format": ["x"]}, r"packing_format=\['x'\]: the runner reads auto_round, "),
        (STORED["auto_round"] | {"data_type": "mx_fp"}, r"data_type='mx_fp': the runner reads int"),
        (made.scheme(bits=99), r"quantization_config\.num_bits=99"),
        (made.scheme(config_groups={"a": {"format": "pack-quantized"}}), r"each of its config_groups needs `weights`"),
        ("text", "quantization_config: a JSON object expected, found 'text'"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_before_weights(
    make_config: Make, saved: Any, tmp_path: Path, stored: Any, message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved("gptq")[0], folder)
    settings = json.loads((folder / "config.json").read_text()) | {"quantization_config": stored}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").write_bytes(b"no weights: reading them would be another error")
    with pytest.raises(ConfigError, match=message):
        load(make_config, folder)


@pytest.mark.parametrize(
    ("weights", "kind"),
    [({"strategy": "block"}, "type=int strategy=block"), ({"type": "float"}, "type=float strategy=group")],
)
def test_other_weights_of_compressed_tensors_are_refused(weights: dict[str, str], kind: str) -> None:
    stored = json.loads(json.dumps(made.scheme()))
    stored["config_groups"]["group_0"]["weights"] |= weights
    found = PackQuantizedConfig.read_stored(stored)
    assert found is not None
    assert kind in found.refusal


@pytest.mark.parametrize(
    "extra",
    [{"format": "int-quantized"}, {"config_groups": {}}, {"config_groups": [1]}],
)
def test_other_formats_of_compressed_tensors_are_another_choices(extra: dict[str, Any]) -> None:
    assert PackQuantizedConfig.read_stored(made.scheme(**extra)) is None


def test_what_compressed_tensors_would_do_besides_is_refused() -> None:
    for key in ("kv_cache_scheme", "transform_config", "sparsity_config"):
        found = PackQuantizedConfig.read_stored(made.scheme() | {key: {"format": "sparse-24-bitmask"}})
        assert found is not None
        assert f"it has a {key}, which the runner does not read" in found.refusal
    dense = PackQuantizedConfig.read_stored(made.scheme(sparsity_config={"format": "dense"}, transform_config={}))
    assert dense is not None
    assert not dense.refusal, "that is what some versions write where nothing is sparse"

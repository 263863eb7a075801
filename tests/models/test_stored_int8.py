"""Checkpoints of compressed-tensors in its format int-quantized (W8A8, W8A16) are read without the package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import int8_checkpoints as made
import pytest
import torch
from changed_checkpoints import Change, changed, with_one, without
from int8_checkpoints import STORED
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
from runner.models.grouped import GroupedLinear
from runner.models.int8_linear import Int8Linear
from runner.models.load import Loaded
from runner.quantization import read_format
from runner.quantization.base import QuantizationConfig
from runner.quantization.int_quantized import IntQuantizedConfig

Make = Callable[..., RunnerConfig]
IDS = torch.arange(3, 40)[None]
UP = "model.layers.1.mlp.up_proj"  # 128 inputs, 192 outputs


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


def configure(
    make_config: Make, folder: Path, dtype: Dtype = Dtype.float32, choice: QuantizationConfig | None = None
) -> RunnerConfig:
    model = LocalConfig(name=str(folder), device="cpu", dtype=dtype)
    return make_config(model=model, quantization=choice or QuantizationConfig())


def load(make_config: Make, folder: Path, *arguments: Any) -> Loaded:
    config = configure(make_config, folder, *arguments)
    return adapt(load_base(config), config)


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return model(ids).logits.float()


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_compressed_tensors_itself_gives_the_same_logits(
    make_config: Make, saved: Any, name: str, dtype: Dtype
) -> None:
    from transformers import AutoModelForCausalLM

    folder = saved(name)
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype.value)).eval()
    expected = logits(theirs)
    loaded = load(make_config, folder, dtype, IntQuantizedConfig())
    kind = "GroupedLinear" if name == "weights_only" else "Int8Linear"
    assert loaded.facts["quantized"] == f"int_quantized: 14 of 15 linear layers (14 {kind})"
    assert loaded.facts["left_alone"] == "lm_head"
    assert loaded.metrics["parameters"] == sum(
        one.weight.numel() for one in theirs.modules() if isinstance(one, torch.nn.Linear | torch.nn.Embedding)
    ) + sum(one.numel() for path, one in theirs.named_parameters() if "norm" in path)
    assert not any("no use for" in note for note in loaded.notes)
    if dtype is Dtype.bfloat16:
        assert torch.equal(logits(loaded.model), expected)
    else:
        assert (logits(loaded.model) - expected).std() < 0.01 * expected.std()


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_the_predicted_size_is_that_of_the_loaded_weights(
    make_config: Make, saved: Any, name: str, dtype: Dtype
) -> None:
    folder = saved(name)
    loaded = load(make_config, folder, dtype)
    assert loaded.facts["quantized"].startswith("int_quantized: 14 of 15 linear layers")
    predicted = predict(configure(make_config, folder, dtype), 2, 8, 8)
    assert predicted is not None
    buffers = sum(buffer.nbytes for buffer in loaded.model.buffers())
    assert sum(predicted.weights.values()) == sum(loaded.bytes_by_dtype.values()) - buffers
    packed = sum(one.weight.nbytes for one in loaded.model.modules() if isinstance(one, GroupedLinear))
    assert loaded.metrics["mapped_weight_mib"] * 2**20 >= packed, "the codes stay in the file"


@pytest.mark.parametrize("name", STORED)
def test_a_tied_head_shards_and_the_engines_products(make_config: Make, saved: Any, tmp_path: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved(name, tie_word_embeddings=True)
    expected = logits(load(make_config, folder).model)
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
    assert torch.equal(logits(loaded.model), expected)
    layers = QuantizedLayers(loaded.model, Heap())
    assert len(layers.exchanged) == (14 if native.kernels() is not None else 0)
    assert (logits(loaded.model) - expected).std() < 0.01 * expected.std()


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_gets_the_same_outputs_whatever_rows_go_along(
    make_config: Make, saved: Any, name: str, dtype: torch.dtype
) -> None:
    if native.kernels() is None:
        return
    loaded = load(make_config, saved(name), Dtype(str(dtype).removeprefix("torch.")))
    assert QuantizedLayers(loaded.model, Heap()).notes == []
    layer = loaded.model.get_submodule(UP)
    rows = torch.randn(37, 128, generator=torch.Generator().manual_seed(1)).to(dtype)
    rows[3] = 0
    rows[5] *= 100
    together = layer(rows)
    assert all(torch.equal(layer(rows[one : one + 1])[0], together[one]) for one in range(37))


def test_a_bias_that_only_the_checkpoint_has_is_added(make_config: Make, saved: Any, tmp_path: Path) -> None:
    before = load(make_config, saved("dynamic"))
    bias = torch.randn(192, generator=torch.Generator().manual_seed(0)).bfloat16()
    loaded = load(make_config, changed(saved("dynamic"), tmp_path / "bias", lambda one: one | {f"{UP}.bias": bias}))
    rows = torch.randn(3, 128)
    expected = before.model.get_submodule(UP)(rows) + bias.float()
    assert isinstance(loaded.model.get_submodule(UP), Int8Linear)
    assert torch.allclose(loaded.model.get_submodule(UP)(rows), expected, atol=1e-5)


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dynamic", with_one(f"{UP}.weight", lambda one: one[:-1]), r"up_proj\.weight: \[191, 128\], and a layer of 128 inputs, 192 outputs has \[192, 128\]"),
        ("dynamic", with_one(f"{UP}.weight", lambda one: one.T), r"up_proj\.weight: \[128, 192\]"),
        ("dynamic", with_one(f"{UP}.weight", lambda one: one.view(torch.uint8)), r"up_proj\.weight: U8, and I8 expected"),
        ("dynamic", with_one(f"{UP}.weight", lambda one: one.bfloat16()), r"up_proj\.weight: BF16, and I8 expected"),
        ("dynamic", with_one(f"{UP}.weight_scale", lambda one: one[1:]), r"up_proj\.weight_scale: \[191, 1\], .* has \[192\] or \[192, 1\]"),
        ("dynamic", with_one(f"{UP}.weight_scale", lambda one: one.int()), r"up_proj\.weight_scale: I32, and F16 or BF16 or F32 expected"),
        ("dynamic", with_one(f"{UP}.weight_scale", lambda one: one * float("nan")), r"up_proj\.weight_scale: a scale is not a finite number"),
        ("dynamic", with_one(f"{UP}.weight_scale", lambda one: one / 0), r"up_proj\.weight_scale: a scale is not a finite number"),
        ("dynamic", without(f"{UP}.weight_scale"), r"up_proj\.weight belong to no layer: the checkpoint lacks the weight_scale"),
        ("dynamic", without(f"{UP}.weight"), r"up_proj\.weight_scale: the checkpoint lacks its weight"),
        ("dynamic", with_one(f"{UP}.weight_zero_point", lambda _: torch.ones(192, 1, dtype=torch.int8)), r"weight_zero_point: symmetric weights have zero points of 0"),
        ("static", without(f"{UP}.input_scale"), r"up_proj\.weight: the checkpoint lacks its input_scale"),
        ("static", with_one(f"{UP}.input_scale", lambda one: one * 0), r"up_proj\.input_scale: a scale is not above 0"),
        ("static", with_one(f"{UP}.input_scale", lambda one: one * float("inf")), r"up_proj\.input_scale: a scale is not a finite"),
        ("static", with_one(f"{UP}.input_scale", lambda one: one.repeat(128)), r"up_proj\.input_scale: \[128\], .* has \[\] or \[1\]"),
        ("static_zeros", with_one(f"{UP}.input_zero_point", lambda one: one.float()), r"up_proj\.input_zero_point: F32, and I8 expected"),
        ("weights_only", with_one("model.layers.9.mlp.up_proj.weight_scale", lambda _: torch.ones(1)), r"layers\.9\.mlp\.up_proj\.weight_scale: LlamaForCausalLM has no linear layer of this name"),
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
    shutil.copytree(saved("dynamic"), folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(ConfigError, match="truncated"):
        load(make_config, folder)


def test_a_quantized_head_that_is_tied_is_refused(make_config: Make, saved: Any, tmp_path: Path) -> None:
    head = {"lm_head.weight": torch.ones(259, 128, dtype=torch.int8), "lm_head.weight_scale": torch.ones(259, 1)}
    folder = changed(saved("dynamic", tie_word_embeddings=True), tmp_path / "tied", lambda tensors: tensors | head)
    with pytest.raises(ConfigError, match=r"lm_head\.weight: config\.json ties the head to the embedding"):
        load(make_config, folder)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (made.scheme(made.DYNAMIC | {"num_bits": 4}), "its rows are num_bits=4 type=int dynamic=True strategy=token"),
        (made.scheme(made.DYNAMIC | {"symmetric": False}), "its rows are .* symmetric=False, and the runner reads"),
        (made.scheme(made.DYNAMIC | {"dynamic": "local"}), "its rows are .* dynamic=local"),
        (made.scheme(made.DYNAMIC | {"strategy": ["x"]}), r"its rows are .* strategy=\['x'\]"),
        (made.scheme(made.STATIC | {"strategy": "token"}), "its rows are .* dynamic=False strategy=token"),
        (made.scheme([8]), r"input_activations=\[8\]: a JSON object expected"),
        (made.scheme(None, "group"), "its weights are num_bits=8 type=int symmetric=True strategy=group"),
        (made.scheme(None, kv_cache_scheme={"num_bits": 8}), "it has a kv_cache_scheme, which the runner does not read"),
        (made.scheme(None, transform_config={"config_groups": {"R1": {}}}), "it has a transform_config"),
        (made.scheme(None, sparsity_config={"format": "sparse-24-bitmask"}), "it has a sparsity_config"),
        (made.scheme(None, config_groups={"a": {"weights": 3}}), "each of its config_groups needs `weights`"),
        (made.scheme(None, config_groups={"a": 3}), "each of its config_groups needs `weights`"),
        (
            made.scheme(None, config_groups={
                str(number): made.scheme(rows)["config_groups"]["group_0"] for number, rows in enumerate((None, made.STATIC))
            }),
            "its groups of layers quantize rows in different ways",
        ),
    ],
)  # fmt: skip
def test_settings_that_the_runner_does_not_read_are_refused_before_weights(
    make_config: Make, saved: Any, tmp_path: Path, stored: Any, message: str
) -> None:
    found = read_format({"quantization_config": stored})
    assert found is not None
    assert found.name == "int_quantized"
    folder = tmp_path / "model"
    shutil.copytree(saved("dynamic"), folder)
    settings = json.loads((folder / "config.json").read_text()) | {"quantization_config": stored}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").write_bytes(b"no weights: reading them would be another error")
    with pytest.raises(ConfigError, match=f"int_quantized by compressed-tensors, which cannot be loaded: .*{message}"):
        load(make_config, folder)

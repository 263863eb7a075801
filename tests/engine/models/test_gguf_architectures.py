"""A tiny model of each architecture, written as llama.cpp's converter does, is the same model when
it is read again.

bench/gguf_against_llamacpp.py asks llama.cpp itself for what follows some prompts in the same
files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import gguf_families
import numpy as np
import pytest
import torch
from gguf_families import FAMILIES, tiny, write_gguf
from raising import raises
from torch import nn

from runner_base import ConfigError, DataError
from runner_engine import CHOICES, LocalModelConfig, ModelSpec, resolve_model
from runner_engine.checkpoints import architectures, gguf_names
from runner_engine.checkpoints.gguf_file import read_gguf_header
from runner_engine.experts import SeparateExperts
from runner_engine.models.gguf_blocks import GgufEmbedding, GgufLinear, InputReorderedLinear
from runner_engine.models.load_checks import load_transformers_config
from runner_engine.models.loading.gguf import load_gguf_model
from runner_engine.plan import format_check

IDS = torch.arange(3, 43).view(2, 20) * 5 % 262
CLOSE = 1e-4  # of logits whose sums may have another order
MIXTURES = ("qwen3_moe", "gpt_oss", "lfm2_moe", "nemotron_h_moe", "granitemoehybrid")


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(IDS).logits.clone()
    return found


def read(path: Path, keeps_blocks: bool = True) -> Any:
    model, report = load_gguf_model(path, load_transformers_config(path), torch.float32, None, keeps_blocks)
    assert report == {"missing_keys": [], "unexpected_keys": []}
    return model


@pytest.mark.sampled(29)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_numbers_of_a_file_are_the_models(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    expected = logits(model)
    found = logits(read(write_gguf(tmp_path / "model.gguf", name, model)))
    assert (found - expected).abs().max() < CLOSE
    assert expected.std() > 0.1


@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_are_multiplied_as_what_they_stand_for(name: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", name, tiny(name), "Q8_0")
    model, unpacked = read(path), read(path, keeps_blocks=False)
    assert (logits(model) - logits(unpacked)).abs().max() < CLOSE
    layers = {place: one for place, one in model.named_modules() if isinstance(one, nn.Linear)}
    blocks = [place for place, one in layers.items() if isinstance(one, GgufLinear)]
    has_latent = name.startswith("deepseek")  # its keys lie the other way round in the file
    left = [
        place for place in layers if place not in blocks and not (has_latent and place.endswith("kv_b_proj"))
    ]
    assert all(place.endswith(("shared_expert_gate", "in_proj_ba", "proj")) for place in left), left
    assert len(left) < len(blocks) / 4
    assert isinstance(model.get_input_embeddings(), GgufEmbedding)
    experts = [one for one in model.modules() if isinstance(one, SeparateExperts)]
    assert bool(experts) == ("exps" in str([tensor.name for tensor in read_gguf_header(path).tensors]))
    assert all(
        isinstance(layer, GgufLinear)
        for one in experts
        for layer in one.modules()
        if isinstance(layer, nn.Linear)
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["Q4_0", "Q5_1", "MXFP4"])
@pytest.mark.parametrize("name", MIXTURES)
def test_experts_in_few_bits(name: str, kind: str, tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "model.gguf", name, tiny(name), lambda tensor: kind if "exps" in tensor else "Q8_0"
    )
    assert kind in {tensor.dtype for tensor in read_gguf_header(path).tensors}
    model = read(path)
    assert (logits(model) - logits(read(path, keeps_blocks=False))).abs().max() < CLOSE
    first = next(one for one in model.modules() if isinstance(one, SeparateExperts)).get_expert(0)
    assert first.get_submodule("up_proj").kind == kind


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_two_experts_exchanged_are_another_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(name)
    right = logits(read(write_gguf(tmp_path / "right.gguf", name, model, "Q8_0")))
    of_model = gguf_families.tensors_of

    def exchanged(name: str, model: Any) -> Any:
        for tensor, values in of_model(name, model):
            if tensor.endswith("ffn_down_exps.weight"):
                values = values[[1, 0, *range(2, len(values))]]
            yield tensor, values

    monkeypatch.setattr(gguf_families, "tensors_of", exchanged)
    wrong = logits(read(write_gguf(tmp_path / "wrong.gguf", name, model, "Q8_0")))
    assert (wrong - right).abs().max() > 100 * CLOSE


# whose weights have an order, or numbers, of the converter's own; where nothing is rotated, pairs
# make no difference
CHANGED = (
    "granite",
    "gemma2",
    "gemma3_text",
    "mixtral",
    "granitemoe",
    "qwen3_5_text",
    "qwen3_5_moe_text",
    "qwen3_next",
)
SHAPES = ("ssm_conv1d", "ssm_a")  # without these changes nothing would fit


@pytest.mark.parametrize("name", CHANGED)
def test_without_what_undoes_the_converter_it_is_another_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(name)
    path = write_gguf(tmp_path / "model.gguf", name, model)
    known = architectures.find_gguf_architecture(read_gguf_header(path))
    kept = {part: change for part, change in known.changes.items() if part in SHAPES}
    assert kept != known.changes
    monkeypatch.setattr(gguf_names, "find_gguf_architecture", lambda _header: replace(known, changes=kept))
    assert (logits(read(path)) - logits(model)).abs().max() > 100 * CLOSE


@pytest.mark.parametrize("name", ["mamba2", "qwen3_5_text"])
def test_a_wrong_decay_is_another_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(name)
    of_model = gguf_families.tensors_of

    def wrong(name: str, model: Any) -> Any:
        return (
            (tensor, values * 2 if tensor.endswith("ssm_a") else values)
            for tensor, values in of_model(name, model)
        )

    monkeypatch.setattr(gguf_families, "tensors_of", wrong)
    found = logits(read(write_gguf(tmp_path / "model.gguf", name, model)))
    assert (found - logits(model)).abs().max() > 100 * CLOSE


def test_heads_of_values_move_with_their_blocks(tmp_path: Path) -> None:
    """Where a head is as wide as blocks, these move; else the inputs are put in the file's
    order."""
    for size, is_moved in ((32, True), (16, False)):
        model = tiny("qwen3_5_text", linear_key_head_dim=size, linear_value_head_dim=size)
        path = write_gguf(tmp_path / f"{size}.gguf", "qwen3_5_text", model, "Q8_0")
        found = read(path)
        layer = found.model.layers[0].linear_attn.out_proj
        assert isinstance(layer, GgufLinear if is_moved else InputReorderedLinear)
        assert (logits(found) - logits(read(path, keeps_blocks=False))).abs().max() < CLOSE


@pytest.mark.thorough
def test_the_blocks_of_wide_rows(tmp_path: Path) -> None:
    model = tiny("qwen3_moe", hidden_size=256, moe_intermediate_size=256, num_hidden_layers=1)
    path = tmp_path / "model.gguf"
    random = np.random.default_rng(0)
    for kind in ("Q4_K", "Q6_K"):
        number = gguf.GGMLQuantizationType[kind]
        block, nbytes = gguf.GGML_QUANT_SIZES[number]

        def packed(
            values: np.ndarray[Any, Any], wanted: gguf.GGMLQuantizationType, plain: Any = gguf.quants.quantize
        ) -> np.ndarray[Any, Any]:
            """Return random blocks for the experts: the gguf package cannot write these types."""
            if wanted == gguf.GGMLQuantizationType.Q8_0:
                return plain(values, wanted)
            shape = (*values.shape[:-1], values.shape[-1] // block, nbytes)  # noqa: B023
            bits = random.integers(0, 256, shape, dtype=np.uint8)
            at = 208 if wanted == gguf.GGMLQuantizationType.Q6_K else 0
            bits[..., at : at + 2] = np.array([0.002], dtype=np.float16).view(np.uint8)
            if at == 0:
                bits[..., 2:4] = np.array([0.001], dtype=np.float16).view(np.uint8)
            return bits.reshape(*values.shape[:-1], -1)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gguf.quants, "quantize", packed)
            write_gguf(
                path,
                "qwen3_moe",
                model,
                lambda tensor: kind if "exps" in tensor else "Q8_0",  # noqa: B023
            )
        found = read(path)
        assert (logits(found) - logits(read(path, keeps_blocks=False))).abs().max() < 10 * CLOSE
        assert found.model.layers[0].mlp.experts.get_expert(7).gate_proj.kind == kind
        path.unlink()


def test_a_layer_that_predicts_further_tokens_is_left_out(tmp_path: Path) -> None:
    model = tiny("glm4_moe")
    more = {"block_count": model.config.num_hidden_layers + 1, "nextn_predict_layers": 1}
    assert (
        logits(read(write_gguf(tmp_path / "model.gguf", "glm4_moe", model, **more))) - logits(model)
    ).abs().max() < CLOSE


def test_experts_of_another_shape_are_named(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "model.gguf", "qwen3_moe", tiny("qwen3_moe"), "Q8_0", expert_feed_forward_length=64
    )
    with raises(DataError, "mismatch"):
        read(path)


def spec_of(path: Path) -> ModelSpec:
    return ModelSpec(LocalModelConfig(name=str(path), device="cpu"), CHOICES["gguf"]())


def test_an_architecture_that_is_not_read_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "plamo3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with raises(ConfigError, "unsupported"):
        format_check.check_checkpoint_format(resolve_model(spec_of(tmp_path / "model.gguf")))


def test_what_is_left_to_transformers_is_read_there() -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    assert {name.replace("-", "_") for name in architectures.BY_TRANSFORMERS} <= {
        *GGUF_SUPPORTED_ARCHITECTURES
    }
    assert not {*architectures.BY_TRANSFORMERS} & {*architectures.MODULES}


@pytest.mark.parametrize("name", ["gemma3_text", "qwen3_5_text", "nemotron_h_moe", "gpt_oss", "deepseek_v3"])
def test_a_plan_knows_layers_and_experts(name: str, tmp_path: Path) -> None:
    """The settings that memory is planned by are those of the model's own config."""
    model = tiny(name)
    settings = resolve_model(spec_of(write_gguf(tmp_path / "model.gguf", name, model))).files.text_settings
    config = model.config.to_dict()
    wanted = [
        *(
            "model_type",
            "layer_types",
            "layers_block_type",
            "sliding_window",
            "num_experts",
            "n_routed_experts",
        ),
        *("num_local_experts", "num_experts_per_tok", "kv_lora_rank", "num_key_value_heads", "hidden_size"),
    ]
    assert {key: settings.get(key) for key in wanted if key in config} == {
        key: config[key] for key in wanted if key in config
    }

"""A model in the blocks of a .gguf file gives the logits of transformers' own reading of the file,
which unpacks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

from runner_engine.checkpoints.architectures import find_gguf_architecture
from runner_engine.checkpoints.gguf_file import read_gguf_header
from runner_engine.checkpoints.gguf_names import find_transformers_weight_name
from runner_engine.models import gguf_blocks
from runner_engine.models.gguf_blocks import GgufEmbedding, GgufLinear
from runner_engine.models.load_checks import load_transformers_config
from runner_engine.models.loading.gguf import load_gguf_model

IDS = torch.arange(3, 40)[None]
# which transformers reads, too, by the same settings; of Gemma's it leaves out by what queries are
# divided
KEPT_ARCHITECTURES = ("llama", "qwen2", "qwen3", "phi3", "starcoder2", "stablelm", "gemma2", "gemma3")
MODEL_TYPES = {"gemma3": "gemma3_text"}
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 16, "pad_token_id": 0,
}  # fmt: skip
# not in a file
DEFAULTS = {
    "qwen3": {"head_dim": 128},
    "gemma2": {"head_dim": 256},  # by whose square root transformers divides queries
    "gemma3": {"head_dim": 256},
    "phi3": {"vocab_size": 32064},
    "starcoder2": {"vocab_size": 49152},
}


def write(path: Path, architecture: str) -> None:
    """Write a model with random weights as a .gguf file in blocks of 8 bits."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        MODEL_TYPES.get(architecture, architecture), **SIZES | DEFAULTS.get(architecture, {})
    )
    model = AutoModelForCausalLM.from_config(config)
    writer, settings = gguf.GGUFWriter(path, architecture), model.config.to_dict()
    writer.add_name(f"A {architecture} of a test")
    for token, number in {"bos": 1, "eos": 2, "unknown": 3, "padding": 0}.items():
        writer.add_uint32(f"tokenizer.ggml.{token}_token_id", number)
    settings["rope_theta"] = 10000.0
    mapping: Any = GGUF_CONFIG_MAPPING[architecture]
    for key, attribute in mapping.items():
        value = settings.get(attribute) if attribute else None
        if isinstance(value, float):
            writer.add_float32(f"{architecture}.{key}", value)
        elif value is not None:
            writer.add_uint32(f"{architecture}.{key}", value)
    weights, is_tied = model.state_dict(), model.config.tie_word_embeddings
    for name, its_name in get_gguf_hf_weights_map(model, TensorProcessor(config=settings)).items():
        if name == "output.weight" and is_tied:
            continue
        weight = torch.rand_like(weights[its_name]).float().numpy()
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize((weight - 0.5) / 4, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.sampled(1)
@pytest.mark.filterwarnings("ignore::UserWarning")  # transformers' copies of a read-only file
@pytest.mark.parametrize("architecture", KEPT_ARCHITECTURES)
def test_each_architecture_gives_the_logits_of_the_unpacked_file(architecture: str, tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", architecture)
    unpacked = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    ).eval()
    config = load_transformers_config(tmp_path / "model.gguf")
    kept, report = load_gguf_model(tmp_path / "model.gguf", config, torch.float32, None)
    assert report == {"missing_keys": [], "unexpected_keys": []}
    with torch.inference_mode():
        expected, found = unpacked(IDS).logits, kept.eval()(IDS).logits
    assert torch.equal(found, expected)
    assert np.unique(expected.numpy()).size > 1000
    linear = [one for one in kept.modules() if isinstance(one, torch.nn.Linear)]
    assert all(isinstance(one, GgufLinear) for one in linear)
    assert isinstance(kept.get_input_embeddings(), GgufEmbedding)
    assert gguf_blocks.count_parameters(kept) == unpacked.num_parameters()
    ours, report = load_gguf_model(tmp_path / "model.gguf", config, torch.bfloat16, None, keeps_blocks=False)
    assert report == {"missing_keys": [], "unexpected_keys": []}
    theirs = unpacked.to(torch.bfloat16).state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.state_dict().items())
    assert ours.generation_config.to_dict() == unpacked.generation_config.to_dict()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("architecture", KEPT_ARCHITECTURES)
def test_settings_and_names_are_those_of_transformers(architecture: str, tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", architecture)
    expected = AutoConfig.from_pretrained(tmp_path, gguf_file="model.gguf")
    found = load_transformers_config(tmp_path / "model.gguf")
    assert type(found) is type(expected)
    assert vars(found) == vars(expected)
    assert found.to_dict() == expected.to_dict()
    known = find_gguf_architecture(read_gguf_header(tmp_path / "model.gguf"))
    for unlike in (False, True):  # layers with what some models of an architecture have
        more = {"use_qkv_bias": unlike, "use_parallel_residual": unlike} if architecture == "stablelm" else {}
        settings = AutoConfig.for_model(**{**expected.to_dict(), **more, "tie_word_embeddings": not unlike})
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings)
        names = get_gguf_hf_weights_map(model, TensorProcessor(config=settings.to_dict()))
        assert len(names) >= 15
        assert {name: find_transformers_weight_name(known, name) for name in names} == names
    assert find_transformers_weight_name(known, "rope_freqs.weight") is None
    assert all(
        find_transformers_weight_name(known, tensor.name)
        for tensor in read_gguf_header(tmp_path / "model.gguf").tensors
    )


def test_a_vocabulary_without_size_counts_its_tokens(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_token_list([f"t{number}" for number in range(1500)])
    writer.add_array("llama.feed_forward_length", [96])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = AutoConfig.from_pretrained(tmp_path, gguf_file="model.gguf")
    assert vars(load_transformers_config(tmp_path / "model.gguf")) == vars(expected)
    assert expected.vocab_size == 1500
    assert expected.intermediate_size == 96

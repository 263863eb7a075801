"""A model in the blocks of a .gguf file gives the logits of transformers' own reading of the file, which unpacks it."""

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

from runner.checkpoints.gguf_file import KEPT_ARCHITECTURES
from runner.models import gguf_blocks
from runner.models.gguf_blocks import GgufEmbedding, GgufLinear

IDS = torch.arange(3, 40)[None]
MODEL_TYPES = {"gemma3": "gemma3_text"}
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 16, "pad_token_id": 0,
}  # fmt: skip
DEFAULTS = {
    "qwen3": {"head_dim": 128},
    "phi3": {"vocab_size": 32064},
    "starcoder2": {"vocab_size": 49152},
}  # not in a file


def write(path: Path, architecture: str) -> None:
    """Write a model with random weights as a .gguf file in blocks of 8 bits."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(MODEL_TYPES.get(architecture, architecture), **SIZES | DEFAULTS.get(architecture, {}))
    model = AutoModelForCausalLM.from_config(config)
    writer, settings = gguf.GGUFWriter(path, architecture), model.config.to_dict()
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


@pytest.mark.filterwarnings("ignore::UserWarning")  # transformers' copies of a read-only file
@pytest.mark.parametrize("architecture", KEPT_ARCHITECTURES)
def test_each_architecture_gives_the_logits_of_the_unpacked_file(architecture: str, tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", architecture)
    unpacked = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).eval()
    config = AutoConfig.from_pretrained(tmp_path, gguf_file="model.gguf")
    kept, report = gguf_blocks.load(tmp_path / "model.gguf", config, torch.float32, None)
    assert report == {"missing_keys": [], "unexpected_keys": []}
    with torch.inference_mode():
        expected, found = unpacked(IDS).logits, kept.eval()(IDS).logits
    assert torch.equal(found, expected)
    assert np.unique(expected.numpy()).size > 1000
    linear = [one for one in kept.modules() if isinstance(one, torch.nn.Linear)]
    assert all(isinstance(one, GgufLinear) for one in linear)
    assert isinstance(kept.get_input_embeddings(), GgufEmbedding)
    assert gguf_blocks.parameters(kept) == unpacked.num_parameters()

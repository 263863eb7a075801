"""Checkpoints of methods that cannot be loaded are refused with the reason, before any weight is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import settings as family_settings
from opening import load_base
from safetensors.torch import load_file, save_file

from runner.config.root import RunnerConfig
from runner_base.errors import ConfigError
from runner_engine.quantization import methods
from runner_engine.quantization.refused import REASONS
from runner_engine.settings.model import LocalConfig


@pytest.mark.parametrize("method", REASONS)
def test_a_refused_method_is_named_with_its_reason(
    make_config: Callable[..., RunnerConfig], tmp_path: Path, method: str
) -> None:
    settings = family_settings("llama").to_dict() | {"quantization_config": {"quant_method": method}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").write_bytes(b"not a weight: reading it would be another error")
    config = make_config(model=LocalConfig(name=str(tmp_path), device="cpu"))
    with pytest.raises(ConfigError) as caught:
        load_base(config)
    assert f"quant_method={method}, which cannot be loaded: {REASONS[method]}." in str(caught.value)


def test_no_method_is_both_refused_and_loaded_and_transformers_knows_each() -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    assert not REASONS.keys() & set(methods())
    assert REASONS.keys() <= AUTO_QUANTIZATION_CONFIG_MAPPING.keys()


def test_transformers_unpacks_experts_in_mxfp4_on_a_cpu(tmp_path: Path) -> None:
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        num_hidden_layers=2, hidden_size=64, intermediate_size=64, vocab_size=512, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    plain: Any = GptOssForCausalLM(config)
    plain.to(torch.bfloat16).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    random = torch.Generator().manual_seed(0)
    packed_bytes = 0
    for name in [name for name in tensors if name.endswith("_proj") and ".experts." in name]:
        experts, inputs, outputs = tensors.pop(name).shape
        groups = (experts, outputs, inputs // 32)
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (*groups, 16), dtype=torch.uint8, generator=random)
        tensors[f"{name}_scales"] = torch.randint(120, 124, groups, dtype=torch.uint8, generator=random)
        packed_bytes += tensors[f"{name}_blocks"].nbytes + tensors[f"{name}_scales"].nbytes
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    written = json.loads((tmp_path / "config.json").read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
    (tmp_path / "config.json").write_text(json.dumps(written))

    model: Any = GptOssForCausalLM.from_pretrained(tmp_path, dtype="auto", device_map="cpu")
    unpacked = {name: one for name, one in model.named_parameters() if name.endswith("_proj") and ".experts." in name}
    assert len(unpacked) == 4
    assert {one.dtype for one in unpacked.values()} == {torch.bfloat16}
    assert sum(one.nbytes for one in unpacked.values()) / packed_bytes == pytest.approx(3.8, abs=0.05)

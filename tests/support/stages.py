"""Tiny models of many families, split, and the whole model's tokens and logits, which their stages
must reproduce."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

from runner.config.root import NoTrackingConfig, RunnerConfig
from runner.options.parts.keys import SplitConfig
from runner.run import run
from runner_base.dtypes import Dtype
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import RopeConfig

LAYERS = 5
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [20, 21, 22], [30, 31, 32, 33, 34, 35]]
STEPS = 6
PLAIN: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts_per_tok": 2, "output_router_logits": False}
# family -> its name in transformers, and what differs from PLAIN; windows are shorter than the
# prompts
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {}),
    "qwen2 window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": 4}),
    "gemma": ("Gemma", {"tie_word_embeddings": True}),
    "gemma2": ("Gemma2", {"tie_word_embeddings": True, "sliding_window": 4, "query_pre_attn_scalar": 8,
                          "final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0}),
    "gemma3": ("Gemma3", {"tie_word_embeddings": True, "sliding_window": 4, "query_pre_attn_scalar": 8,
                          "sliding_window_pattern": 2}),
    "gpt2": ("GPT2", {"tie_word_embeddings": True}),
    "gpt2 untied": ("GPT2", {}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, **EXPERTS}),
    "qwen3_moe": ("Qwen3Moe", {"num_experts": 4, "moe_intermediate_size": 16, **EXPERTS}),
    "gpt_neox": ("GPTNeoX", {}),
    "phi3": ("Phi3", {"sliding_window": None}),
    "granite": ("Granite", {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": True}),
    "bloom": ("Bloom", {"tie_word_embeddings": True}),
}  # fmt: skip
SPECIAL_CLASSES = {"GPT2": "GPT2LMHeadModel", "Gemma3": "Gemma3ForCausalLM"}
SPECIAL_CONFIGS = {"Gemma3": "Gemma3TextConfig"}


def save_family(folder: Path, family: str, dtype: str = "float32", **keys: Any) -> Path:
    """Save a tiny model of a family in which all weights are random, also norms and biases."""
    name, own = FAMILIES[family]
    config = getattr(transformers, SPECIAL_CONFIGS.get(name, f"{name}Config"))(**(PLAIN | own | keys))
    torch.manual_seed(0)
    model = getattr(transformers, SPECIAL_CLASSES.get(name, f"{name}ForCausalLM"))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def split_into(folder: Path, parts: Path, num_parts: int, **keys: Any) -> Path:
    """Split a model with task=split."""
    config = RunnerConfig(
        model=LocalModelConfig(name=str(folder), dtype=Dtype.float32),
        quantization=QuantizationConfig(),
        lora=LoraConfig(),
        rope=RopeConfig(),
        generation=GenerationConfig(),
        task=SplitConfig(num_parts=num_parts, output_dir=str(parts), **keys),
        tracking=NoTrackingConfig(),
        output_dir=str(parts.with_name(f"{parts.name}.outputs")),
    )
    run(config)
    return parts


def left_padded() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, mask and positions of PROMPTS, padded on the left."""
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    return ids, mask, (mask.cumsum(-1) - 1).clamp_(min=0)


def greedy(step: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits [B, steps, V] and tokens [B, steps] of prefill and greedy decoding, with `step`
    for each pass."""
    values, mask, positions = left_padded()
    logits, tokens = [], []
    for _ in range(STEPS):
        logits.append(step(values, mask, positions)[:, -1:])
        values = logits[-1].argmax(-1)
        tokens.append(values)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return torch.cat(logits, dim=1), torch.cat(tokens, dim=1)


def whole(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the unsplit model by transformers in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    cache = DynamicCache(config=model.config)
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def step(ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        position_argument = {"position_ids": positions} if takes_positions else {}
        with torch.inference_mode():
            output = model(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **position_argument
            )
        logits: torch.Tensor = output.logits
        return logits

    return greedy(step)


def chained(stages: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Run stages one after the other in this process."""
    caches = [stage.new_cache() for stage in stages]

    def step(values: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        for stage, cache in zip(stages, caches, strict=True):
            values = stage(values, mask, positions, cache)
        return values

    return greedy(step)

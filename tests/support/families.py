"""Real tiny models of four families, and adapters for them: random weights, one source for all
tests."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FAMILIES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
}
PEFT_WARNS = "`is_gradient_checkpointing`"  # peft 0.21 uses a deprecated name of transformers 5.23


def settings(family: str, head_dim: int = 64, tied: bool = False, **keys: Any) -> Any:
    """Return a config of two layers, two query heads on one key head: only q_proj and o_proj are
    square.

    All sizes suit bitsandbytes' 4-bit CPU kernels; the vocabulary is that of the byte-level
    tokenizer.
    """
    plain = {
        "vocab_size": 259,
        "hidden_size": 2 * head_dim,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": head_dim,
        "max_position_embeddings": 256,
        "initializer_range": 0.8
        / (2 * head_dim) ** 0.5,  # logits of equal size for every width, larger than usual
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 2,
    }
    return FAMILIES[family][0](**plain | keys)


def build(family: str, head_dim: int = 64, tied: bool = False, *, seed: int = 0, **keys: Any) -> Any:
    """Build a model in float32, the same one for the same arguments; `keys` are those of its
    config."""
    torch.manual_seed(seed)
    return FAMILIES[family][1](settings(family, head_dim, tied, **keys)).eval()


def save(
    folder: Path,
    family: str = "llama",
    head_dim: int = 64,
    tied: bool = False,
    *,
    shard: str = "1GB",
    **keys: Any,
) -> Path:
    """Save a model without a tokenizer; the key dtype="bfloat16" rounds its weights, `shard` splits
    its file."""
    dtype = getattr(torch, keys.get("dtype", "float32"))
    build(family, head_dim, tied, **keys).to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def squares(config: Any) -> list[str]:
    """Return the paths of the square linear layers, from the config's numbers."""
    hidden, head_dim = config.hidden_size, config.head_dim
    sizes = {
        "self_attn.q_proj": (hidden, config.num_attention_heads * head_dim),
        "self_attn.k_proj": (hidden, config.num_key_value_heads * head_dim),
        "self_attn.v_proj": (hidden, config.num_key_value_heads * head_dim),
        "self_attn.o_proj": (config.num_attention_heads * head_dim, hidden),
        "mlp.gate_proj": (hidden, config.intermediate_size),
        "mlp.up_proj": (hidden, config.intermediate_size),
        "mlp.down_proj": (config.intermediate_size, hidden),
    }
    names = [name for name, (inputs, outputs) in sizes.items() if inputs == outputs]
    return [f"model.layers.{layer}.{name}" for layer in range(config.num_hidden_layers) for name in names]


def pth_state(config: Any, rank: int = 4, seed: int = 1, scale: float = 0.1) -> dict[str, torch.Tensor]:
    """Return A and B of a `.pth` adapter for every square layer."""
    random = torch.Generator().manual_seed(seed)
    state = {}
    for path in squares(config):
        state[f"{path}.lora.A.weight"] = torch.randn(rank, config.hidden_size, generator=random) * scale
        state[f"{path}.lora.B.weight"] = torch.randn(config.hidden_size, rank, generator=random) * scale
    return state


def save_pth(file: Path, config: Any, rank: int = 4, **keys: Any) -> Path:
    """Save a `.pth` adapter for every square layer."""
    torch.save(pth_state(config, rank, **keys), file)
    return file


def save_peft(
    folder: Path, base: Path, modules: tuple[str, ...] = ("q_proj", "down_proj"), rank: int = 4
) -> Path:
    """Save a PEFT adapter with scaling 2 and a delta that is not 0, for the model in base."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=PEFT_WARNS, category=FutureWarning)
        plain = AutoModelForCausalLM.from_pretrained(base)
        model = get_peft_model(plain, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(modules)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(str(folder))
    return folder

"""What llama.cpp's converter writes of a scaled rotary embedding: keys of the header, and divisors
of frequencies.

The arithmetic is the converter's (`generate_extra_tensors` of Llama and Phi-3), not that of
runner's reader.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

Named = tuple[str, np.ndarray[Any, Any]]


def rope_keys(config: Any) -> dict[str, Any]:
    """Return the keys of a scaling; llama3's has none, because its divisors are a tensor."""
    rope = getattr(config, "rope_parameters", None) or {}
    kind, keys = rope.get("rope_type"), {}
    if kind == "linear":
        keys = {"type": "linear", "factor": rope["factor"]}
    elif kind == "yarn":
        keys = {"type": "yarn", "factor": rope["factor"]}
        keys["original_context_length"] = rope["original_max_position_embeddings"]
        further = {
            "attention_factor": "yarn_attn_factor",
            "beta_fast": "yarn_beta_fast",
            "beta_slow": "yarn_beta_slow",
        }
        keys |= {key: float(rope[name]) for name, key in further.items() if rope.get(name) is not None}
        if rope.get("mscale_all_dim"):
            keys["yarn_log_multiplier"] = 0.1 * rope["mscale_all_dim"]
    elif kind == "longrope":
        trained = rope["original_max_position_embeddings"]
        times = config.max_position_embeddings / trained
        keys["original_context_length"] = trained
        keys["attn_factor"] = math.sqrt(1 + math.log(times) / math.log(trained)) if times > 1 else 1.0
    return {f"rope.scaling.{key}": value for key, value in keys.items()}


def divisors_of(given: dict[str, list[float]]) -> Iterator[Named]:
    """Return divisors of frequencies as tensors."""
    for name, values in given.items():
        yield name, np.array(values, dtype=np.float32)


def rope_divisors(config: Any) -> Iterator[Named]:
    """Return the divisors of frequencies that a file has beside its weights."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "llama3":
        yield "rope_freqs.weight", np.array(llama3_divisors(config, rope), dtype=np.float32)
    elif rope.get("rope_type") == "longrope":
        for kind in ("long", "short"):
            yield f"rope_factors_{kind}.weight", np.array(rope[f"{kind}_factor"], dtype=np.float32)


def llama3_divisors(config: Any, rope: dict[str, Any]) -> list[float]:
    """Return one divisor for each pair of a head."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    trained, divisors = rope["original_max_position_embeddings"], []
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    for pair in range(0, size, 2):
        wave = 2 * math.pi * rope["rope_theta"] ** (pair / size)
        if wave < trained / high:
            divisors.append(1.0)
        elif wave > trained / low:
            divisors.append(rope["factor"])
        else:
            smooth = (trained / wave - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return divisors

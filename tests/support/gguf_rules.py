"""What llama.cpp's converter changes in the weights of a family: the rules, written down for tests.

A rule takes a weight by transformers' name and returns the tensors of the file: by the name that
the gguf package's table knows, or by the one in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Values = np.ndarray[Any, Any]
Named = tuple[str, Values]
Rule = Callable[[str, Values, Any], Iterator[Named]]


def as_they_are(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Keep a weight; fused experts become gates and ups."""
    layer = path.split(".")[2] if ".layers." in path else ""
    if path.endswith("experts.gate_up_proj"):
        half = values.shape[1] // 2
        yield f"blk.{layer}.ffn_gate_exps.weight", values[:, :half]
        yield f"blk.{layer}.ffn_up_exps.weight", values[:, half:]
    elif path.endswith(("experts.down_proj", "experts.up_proj")):
        part = "down" if path.endswith("down_proj") else "up"
        yield f"blk.{layer}.ffn_{part}_exps.weight", values
    elif path.endswith(("e_score_correction_bias", "expert_bias")):
        yield f"blk.{layer}.exp_probs_b.bias", values
    elif path.endswith("block_sparse_moe.router.weight"):
        yield f"blk.{layer}.ffn_gate_inp.weight", values
    elif path.endswith("router.per_expert_scale"):
        yield f"blk.{layer}.ffn_down_exps.scale", values
    elif path.endswith("router.scale"):
        yield f"blk.{layer}.ffn_gate_inp.scale", values
    elif path.endswith("layer_scalar"):
        yield f"blk.{layer}.layer_output_scale.weight", values
    elif path.endswith("embedding_norm.weight"):
        yield "token_embd_norm.weight", values
    else:
        yield path, values


def side_by_side(values: Values, heads: int) -> Values:
    """Put the rotary pairs of each head side by side."""
    return (
        values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        .swapaxes(1, 2)
        .reshape(values.shape)
    )


def paired(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Put the rows of queries and keys in pairs, as in a Llama."""
    if path.endswith("q_proj.weight"):
        values = side_by_side(values, config.num_attention_heads)
    elif path.endswith("k_proj.weight"):
        values = side_by_side(values, config.num_key_value_heads)
    yield from as_they_are(path, values, config)


def phi3(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Keep a weight: queries, keys and values are one matrix here as there, and gates and ups,
    too."""
    layer = path.split(".")[2] if ".layers." in path else ""
    parts = {"qkv_proj": "attn_qkv", "gate_up_proj": "ffn_up"}
    part = next((own for name, own in parts.items() if path.endswith(f"{name}.weight")), None)
    yield (path if part is None else f"blk.{layer}.{part}.weight"), values


def gemma(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Add 1 to norms."""
    yield from as_they_are(path, values + 1 if path.endswith("norm.weight") else values, config)


def gpt_oss(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Take the experts apart, whose gates and ups alternate, and lay them the other way round."""
    layer = path.split(".")[2] if ".layers." in path else ""
    if path.endswith("experts.gate_up_proj"):
        turned = values.swapaxes(1, 2)
        yield f"blk.{layer}.ffn_gate_exps.weight", turned[:, ::2]
        yield f"blk.{layer}.ffn_up_exps.weight", turned[:, 1::2]
    elif path.endswith("experts.gate_up_proj_bias"):
        yield f"blk.{layer}.ffn_gate_exps.bias", values[:, ::2]
        yield f"blk.{layer}.ffn_up_exps.bias", values[:, 1::2]
    elif path.endswith("experts.down_proj"):
        yield f"blk.{layer}.ffn_down_exps.weight", values.swapaxes(1, 2)
    elif path.endswith("experts.down_proj_bias"):
        yield f"blk.{layer}.ffn_down_exps.bias", values
    elif path.endswith("sinks"):
        yield f"blk.{layer}.attn_sinks.weight", values
    else:
        yield path, values


def deepseek(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Split what makes keys and values of the latent, and turn the keys' part."""
    if not path.endswith("kv_b_proj.weight"):
        yield from as_they_are(path, values, config)
        return
    layer = path.split(".")[2]
    heads = values.reshape(config.num_attention_heads, -1, values.shape[-1])
    keys, of_values = np.split(heads, [config.qk_nope_head_dim], axis=1)
    yield f"blk.{layer}.attn_k_b.weight", keys.swapaxes(1, 2)
    yield f"blk.{layer}.attn_v_b.weight", of_values


def next_norms(path: str, values: Values) -> Values:
    """Add 1 to all norms but the gated one."""
    return (
        values + 1
        if path.endswith("norm.weight") and not path.endswith("linear_attn.norm.weight")
        else values
    )


def linear_attention(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Change what a gated delta layer has besides matrices."""
    layer = path.split(".")[2] if ".layers." in path else ""
    if path.endswith("A_log"):
        yield f"blk.{layer}.ssm_a", -np.exp(values)
    elif path.endswith("dt_bias"):
        yield f"blk.{layer}.ssm_dt.bias", values
    elif path.endswith("conv1d.weight"):
        yield path, values.squeeze(1)
    else:
        yield from as_they_are(path, next_norms(path, values), config)


def qwen3_next(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Split the projection of a linear layer, which lies key head by key head."""
    if not path.endswith("in_proj_qkvz.weight"):
        yield from linear_attention(path, values, config)
        return
    heads, key, value = (
        config.linear_num_key_heads,
        config.linear_key_head_dim,
        config.linear_value_head_dim,
    )
    of_values = config.linear_num_value_heads // heads * value
    by_head = values.reshape(heads, 2 * key + 2 * of_values, -1)
    parts = np.split(by_head, [key, 2 * key, 2 * key + of_values], axis=1)
    queries, keys, own, gates = (part.reshape(-1, values.shape[1]) for part in parts)
    layer = path.split(".")[2]
    yield f"blk.{layer}.attn_qkv.weight", np.concatenate((queries, keys, own))
    yield f"blk.{layer}.attn_gate.weight", gates


def qwen35(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Put the value heads in another order: the first of each key head, then the second of each
    …."""
    heads, size = config.linear_num_key_heads, config.linear_value_head_dim
    each = config.linear_num_value_heads // heads
    keys = 2 * heads * config.linear_key_head_dim

    def tiled(some: Values, of_head: int) -> Values:
        return some.reshape(heads, each, of_head, *some.shape[1:]).swapaxes(0, 1).reshape(some.shape)

    if "linear_attn" in path:
        if path.endswith(("in_proj_qkv.weight", "conv1d.weight")):
            values = np.concatenate((values[:keys], tiled(values[keys:], size)))
        elif path.endswith("in_proj_z.weight"):
            values = tiled(values, size)
        elif path.endswith(("in_proj_a.weight", "in_proj_b.weight", "A_log", "dt_bias")):
            values = tiled(values, 1)
        elif path.endswith("out_proj.weight"):
            values = tiled(values.T, size).T
    yield from linear_attention(path, values, config)


def lfm2(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Drop a convolution's dimension of one."""
    yield from as_they_are(path, values.squeeze(1) if path.endswith("conv.conv.weight") else values, config)


def mamba(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Change a state space's weights; the groups of its norm are apart."""
    layer = path.split(".")[2] if ".layers." in path else ""
    groups: int = config.n_groups if hasattr(config, "n_groups") else config.mamba_n_groups
    if path.endswith("A_log"):
        yield f"blk.{layer}.ssm_a", -np.exp(values)[:, None]
    elif path.endswith(".D"):
        yield f"blk.{layer}.ssm_d", values[:, None]
    elif path.endswith("dt_bias"):
        yield f"blk.{layer}.ssm_dt.bias", values
    elif path.endswith(("mixer.norm.weight", "mamba.norm.weight")):
        yield f"blk.{layer}.ssm_norm.weight", values.reshape(groups, -1)
    elif "conv1d" in path:
        yield f"blk.{layer}.ssm_conv1d.{path.rpartition('.')[2]}", values.squeeze()
    else:
        yield path, values


def granite_hybrid(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Split the shared network's first matrix, and change the layers with a state space."""
    layer = path.split(".")[2] if ".layers." in path else ""
    name = "_shexp" if config.num_local_experts else ""
    if path.endswith("shared_mlp.input_linear.weight"):
        gate, up = np.split(values, 2)
        yield f"blk.{layer}.ffn_gate{name}.weight", gate
        yield f"blk.{layer}.ffn_up{name}.weight", up
    elif path.endswith("shared_mlp.output_linear.weight"):
        yield f"blk.{layer}.ffn_down{name}.weight", values
    elif ".mamba." in path:
        yield from mamba(path, values, config)
    else:
        yield from paired(path, values, config)


NEMOTRON_NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "up_proj": "ffn_up",
    "down_proj": "ffn_down", "gate": "ffn_gate_inp", "in_proj": "ssm_in", "out_proj": "ssm_out",
}  # fmt: skip


def nemotron_h(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Name the one mixer of each layer by what it is."""
    layer, last = (path.split(".")[2] if ".layers." in path else ""), path.split(".")[-2]
    if path.endswith("q_proj.weight"):
        values = side_by_side(values, config.num_attention_heads)
    elif path.endswith("k_proj.weight"):
        values = side_by_side(values, config.num_key_value_heads)
    if ".shared_experts." in path:
        yield f"blk.{layer}.{NEMOTRON_NAMES[last]}_shexp.weight", values
    elif ".mixer.experts." in path or path.endswith("e_score_correction_bias"):
        yield from as_they_are(path, values, config)
    elif ".mixer." in path and last in NEMOTRON_NAMES:
        yield f"blk.{layer}.{NEMOTRON_NAMES[last]}.weight", values
    else:
        yield from mamba(path, values, config)


def falcon_h1(path: str, values: Values, config: Any) -> Iterator[Named]:
    """Multiply the weights by the model's multipliers."""
    inputs = config.attention_in_multiplier
    factors = {
        "down_proj": config.mlp_multipliers[1], "gate_proj": config.mlp_multipliers[0],
        "k_proj": config.key_multiplier * inputs, "q_proj": inputs, "v_proj": inputs,
        "o_proj": config.attention_out_multiplier, "out_proj": config.ssm_out_multiplier,
        "in_proj": config.ssm_in_multiplier, "lm_head": config.lm_head_multiplier,
        "embed_tokens": config.embedding_multiplier,
    }  # fmt: skip
    values = values * factors.get(path.split(".")[-2], 1.0)
    if path.endswith("in_proj.weight"):
        inner, state = config.mamba_d_ssm, config.mamba_n_groups * config.mamba_d_state
        ends = [inner, 2 * inner, 2 * inner + state, 2 * inner + 2 * state]
        parts = np.split(values, ends)
        values = np.concatenate(
            [part * factor for part, factor in zip(parts, config.ssm_multipliers, strict=True)]
        )
    for name, changed in mamba(path, values, config):
        yield from as_they_are(name, changed, config)

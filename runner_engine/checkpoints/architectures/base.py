"""Describes how a .gguf architecture's settings and tensors map to those of a transformers model.

Tensor values are NumPy arrays here. A config is a transformers config made from the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from runner_base import DataError
from runner_engine.checkpoints.weight_files import TensorLocation

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import GgufHeader

Numbers = np.ndarray[Any, Any]
# the config, how many there are → which one of the file each one of the model is
Order = Callable[[Any, int], Numbers]

SETTINGS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
RMS = {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
VOCABULARY = {"vocab_size": "vocab_size"}
THETA = {"rope.freq_base": "rope_theta"}
HEAD = {"attention.key_length": "head_dim"}
EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}

WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
LAYER = {**ATTENTION, **MLP, **NORMS}
# the matrices of a layer's experts, [experts, outputs, inputs] each
EXPERT_PARTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
GATE_AND_UP = "ffn_gate_up_exps"  # both in one tensor, gates first


@dataclass(frozen=True)
class TensorChange:
    """How a file's tensor becomes a model's tensor. Reordering works on blocks, too, arithmetic does not."""

    rows: Order | None = None
    columns: Order | None = None
    numbers: Callable[[Any, Numbers], Numbers] | None = None
    together: Callable[[Any, list[Numbers]], Numbers] | None = (
        None  # of several tensors; None: one below the other
    )


def _no_settings(_header: GgufHeader) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Architecture:
    """Maps a file's settings and tensors to those of a transformers model."""

    model_type: str
    # keys of the file → of the config, besides SETTINGS
    settings: Mapping[str, str] = field(default_factory=dict)
    # a tensor of a block, `attn_q`, or with its ending, `ssm_dt.bias` → its place in the model's
    # layer
    layer: Mapping[str, str] = field(default_factory=lambda: LAYER)
    whole: Mapping[str, str] = field(default_factory=lambda: WHOLE)
    layers: str = "model.layers"
    computed: Callable[[GgufHeader], dict[str, Any]] = _no_settings  # settings that no key of the file holds
    # by a tensor's part, `attn_q`, or `norm` of all norms
    changes: Mapping[str, TensorChange] = field(default_factory=dict)
    # several tensors of the file, in this order, that are one weight of the model's layer; its
    # change has its name
    joined: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    experts: str | None = None  # where in a layer its experts are
    is_read_by_transformers: bool = False  # also: then both give the same settings

    def find_change(self, tensor_suffix: str) -> TensorChange | None:
        """Return the change for a tensor, by the part of its name after the block's number."""
        stem = tensor_suffix.rpartition(".")[0] or tensor_suffix
        for name in (tensor_suffix, stem):
            if name in self.changes:
                return self.changes[name]
        return self.changes.get("norm") if stem.endswith("norm") else None


def read_setting(header: GgufHeader, key: str, default: Any = None) -> Any:
    """Read a setting of the file's architecture."""
    return header.metadata.get(f"{header.architecture}.{key}", default)


def read_layer_settings(header: GgufHeader, key: str, default: Any = 0) -> list[Any]:
    """Read one value per layer of a setting that the file stores once or per layer."""
    value, count = read_setting(header, key, default), count_layers(header)
    if not isinstance(value, list):
        return [value] * count
    if len(value) < count:
        raise DataError(
            f"{header.architecture}.{key}: {count} numbers expected, found {len(value)}",
            key=header.file,
            code="damaged",
        )
    return value[:count]


def count_layers(header: GgufHeader) -> int:
    """Return the number of layers, without those for multi-token prediction."""
    return int(read_setting(header, "block_count", 0)) - int(read_setting(header, "nextn_predict_layers", 0))


def has_tensor(header: GgufHeader, ending: str) -> bool:
    """Whether a tensor's name has this ending."""
    return any(tensor.name.endswith(ending) for tensor in header.tensors)


def read_float32_tensor(tensor: TensorLocation) -> Numbers:
    return np.fromfile(tensor.file, dtype="<f4", count=tensor.num_elements, offset=tensor.offset)


def read_head_dim(header: GgufHeader) -> int:
    """Read the size of an attention head. The default is the model's width divided by its heads."""
    heads = read_setting(header, "attention.head_count", 1)
    heads = max(heads) if isinstance(heads, list) else heads
    return int(
        read_setting(header, "attention.key_length")
        or read_setting(header, "embedding_length", 0) // max(1, heads)
    )


def derive_attention_types(header: GgufHeader, every: int) -> list[str]:
    """Return each layer's attention type: all but every `every`-th layer have a sliding window.

    The file's own pattern has precedence.
    """
    pattern = read_setting(header, "attention.sliding_window_pattern")
    if isinstance(pattern, list):
        has_window = read_layer_settings(header, "attention.sliding_window_pattern")
    else:
        every = pattern or every
        has_window = [(number + 1) % every != 0 for number in range(count_layers(header))]
    return ["sliding_attention" if has else "full_attention" for has in has_window]


def make_unpairing_order(heads: str) -> Order:
    """Return the row order that undoes the converter's interleaving of rotary pairs.

    heads: the config's name for the number of heads.
    """

    def compute_row_order(config: Any, rows: int) -> Numbers:
        count = getattr(config, heads)
        return np.arange(rows).reshape(count, rows // count // 2, 2).swapaxes(1, 2).reshape(-1)

    return compute_row_order


PAIRED = {
    "attn_q": TensorChange(rows=make_unpairing_order("num_attention_heads")),
    "attn_k": TensorChange(rows=make_unpairing_order("num_key_value_heads")),
}
# the model adds 1 to its norms' weights
ONE_MORE = {"norm": TensorChange(numbers=lambda _config, values: values - 1)}

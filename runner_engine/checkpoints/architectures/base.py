"""Maps the settings and tensors of a .gguf architecture to those of a transformers model.

Tensor values are NumPy arrays here. A config is a transformers config made from the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner_base import DataError
from runner_base.lazy_imports import LazyModule
from runner_engine.checkpoints.weight_files import TensorLocation

if TYPE_CHECKING:
    import numpy as np

    NumericArray = np.ndarray[Any, Any]
else:
    NumericArray = Any
    np = LazyModule("numpy")  # starts threads, after which MLflow's process cannot be forked

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import GgufHeader

# the config, how many there are → which one of the file each one of the model is
RowOrderFunction = Callable[[Any, int], NumericArray]

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
    """Conversion of a .gguf tensor to a tensor of the model.

    The rows of quantized blocks can be reordered, but their numbers cannot be changed.
    """

    rows: RowOrderFunction | None = None
    columns: RowOrderFunction | None = None
    numbers: Callable[[Any, NumericArray], NumericArray] | None = None
    together: Callable[[Any, list[NumericArray]], NumericArray] | None = (
        None  # of several tensors; None: one below the other
    )


def _build_empty_config(_header: GgufHeader) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Architecture:
    """Maps the settings and tensors of one .gguf architecture to those of a transformers model."""

    model_type: str
    # keys of the file → of the config, besides SETTINGS
    settings: Mapping[str, str] = field(default_factory=dict)
    # a tensor of a block, `attn_q`, or with its ending, `ssm_dt.bias` → its place in the model's
    # layer
    layer: Mapping[str, str] = field(default_factory=lambda: LAYER)
    whole: Mapping[str, str] = field(default_factory=lambda: WHOLE)
    layers: str = "model.layers"
    computed: Callable[[GgufHeader], dict[str, Any]] = (
        _build_empty_config  # settings that no key of the file holds
    )
    # by a tensor's part, `attn_q`, or `norm` of all norms
    changes: Mapping[str, TensorChange] = field(default_factory=dict)
    # several tensors of the file, in this order, that are one weight of the model's layer; its
    # change has its name
    joined: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    experts: str | None = None  # where in a layer its experts are
    is_read_by_transformers: bool = False  # also: then both give the same settings

    def find_tensor_conversion(self, tensor_suffix: str) -> TensorChange | None:
        """Return the conversion of a tensor, or None if the tensor needs none.

        tensor_suffix: the part of the tensor's name after the block number.
        """
        stem = tensor_suffix.rpartition(".")[0] or tensor_suffix
        for name in (tensor_suffix, stem):
            if name in self.changes:
                return self.changes[name]
        return self.changes.get("norm") if stem.endswith("norm") else None


def read_architecture_setting(header: GgufHeader, setting_name: str, default: Any = None) -> Any:
    return header.metadata.get(f"{header.architecture}.{setting_name}", default)


def read_setting_per_layer(header: GgufHeader, setting_name: str, default: Any = 0) -> list[Any]:
    """Return the value of a setting for each layer. If the file stores a single value, repeat it
    for all layers.
    """
    value, count = read_architecture_setting(header, setting_name, default), count_decoder_layers(header)
    if not isinstance(value, list):
        return [value] * count
    if len(value) < count:
        raise DataError(
            f"{header.architecture}.{setting_name}: {count} numbers expected, found {len(value)}",
            key=header.file,
            code="damaged",
        )
    return value[:count]


def count_decoder_layers(header: GgufHeader) -> int:
    """Return the number of decoder layers, excluding the layers for multi-token prediction."""
    return int(read_architecture_setting(header, "block_count", 0)) - int(
        read_architecture_setting(header, "nextn_predict_layers", 0)
    )


def has_tensor_with_suffix(header: GgufHeader, suffix: str) -> bool:
    return any(tensor.name.endswith(suffix) for tensor in header.tensors)


def read_float32_tensor(tensor: TensorLocation) -> NumericArray:
    return np.fromfile(tensor.file, dtype="<f4", count=tensor.num_elements, offset=tensor.offset)


def read_head_dim(header: GgufHeader) -> int:
    """Read the size of an attention head, by default the hidden size divided by the number of heads."""
    heads = read_architecture_setting(header, "attention.head_count", 1)
    heads = max(heads) if isinstance(heads, list) else heads
    return int(
        read_architecture_setting(header, "attention.key_length")
        or read_architecture_setting(header, "embedding_length", 0) // max(1, heads)
    )


def derive_attention_types(header: GgufHeader, full_attention_interval: int) -> list[str]:
    """Return the attention type of each layer. Every n-th layer has full attention, the others have
    a sliding window.

    The pattern in the file has precedence over the given interval.
    """
    pattern = read_architecture_setting(header, "attention.sliding_window_pattern")
    if isinstance(pattern, list):
        has_window = read_setting_per_layer(header, "attention.sliding_window_pattern")
    else:
        full_attention_interval = pattern or full_attention_interval
        has_window = [
            (number + 1) % full_attention_interval != 0 for number in range(count_decoder_layers(header))
        ]
    return ["sliding_attention" if has else "full_attention" for has in has_window]


def build_rotary_deinterleaving_function(num_heads_key: str) -> RowOrderFunction:
    """Return a function that reorders tensor rows to undo the interleaving of rotary pairs.

    llama.cpp's converter interleaves the pairs. num_heads_key: the config's name for the number
    of heads.
    """

    def compute_row_order(config: Any, num_rows: int) -> NumericArray:
        count = getattr(config, num_heads_key)
        return np.arange(num_rows).reshape(count, num_rows // count // 2, 2).swapaxes(1, 2).reshape(-1)

    return compute_row_order


PAIRED = {
    "attn_q": TensorChange(rows=build_rotary_deinterleaving_function("num_attention_heads")),
    "attn_k": TensorChange(rows=build_rotary_deinterleaving_function("num_key_value_heads")),
}
# the model adds 1 to its norms' weights
ONE_MORE = {"norm": TensorChange(numbers=lambda _config, values: values - 1)}

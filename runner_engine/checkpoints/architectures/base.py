"""What has to be known of an architecture: how a .gguf file calls settings and tensors, and what
its converter changed.

Numbers are NumPy arrays here. A config is the one that transformers makes of the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from runner_base import DataError
from runner_engine.checkpoints.weight_files import Tensor

if TYPE_CHECKING:
    from runner_engine.checkpoints.gguf_header import Header

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
class Change:
    """What makes a tensor of the file one of the model; orders can be applied to blocks, too,
    numbers cannot."""

    rows: Order | None = None
    columns: Order | None = None
    numbers: Callable[[Any, Numbers], Numbers] | None = None
    together: Callable[[Any, list[Numbers]], Numbers] | None = (
        None  # of several tensors; None: one below the other
    )


def _nothing(_header: Header) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Architecture:
    """How a file's settings and tensors become those of transformers' model."""

    model_type: str
    # keys of the file → of the config, besides SETTINGS
    settings: Mapping[str, str] = field(default_factory=dict)
    # a tensor of a block, `attn_q`, or with its ending, `ssm_dt.bias` → its place in the model's
    # layer
    layer: Mapping[str, str] = field(default_factory=lambda: LAYER)
    whole: Mapping[str, str] = field(default_factory=lambda: WHOLE)
    layers: str = "model.layers"
    computed: Callable[[Header], dict[str, Any]] = _nothing  # settings that no key of the file holds
    # by a tensor's part, `attn_q`, or `norm` of all norms
    changes: Mapping[str, Change] = field(default_factory=dict)
    # several tensors of the file, in this order, that are one weight of the model's layer; its
    # change has its name
    joined: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    experts: str | None = None  # where in a layer its experts are
    is_read_by_transformers: bool = False  # also: then both give the same settings

    def change_of(self, part: str) -> Change | None:
        """Return how a tensor is changed, by the part of its name after the block's number."""
        stem = part.rpartition(".")[0] or part
        for name in (part, stem):
            if name in self.changes:
                return self.changes[name]
        return self.changes.get("norm") if stem.endswith("norm") else None


def of_file(header: Header, key: str, default: Any = None) -> Any:
    """Return a setting of the file's architecture."""
    return header.metadata.get(f"{header.architecture}.{key}", default)


def of_layers(header: Header, key: str, default: Any = 0) -> list[Any]:
    """Return a setting for each layer of the model, whether the file has one for all or one for
    each."""
    value, count = of_file(header, key, default), layer_count(header)
    if not isinstance(value, list):
        return [value] * count
    if len(value) < count:
        raise DataError(
            f"{header.architecture}.{key}: {count} numbers expected, found {len(value)}",
            key=header.file,
            code="damaged",
        )
    return value[:count]


def layer_count(header: Header) -> int:
    """Return the model's layers: those that predict further tokens come after them, and are not
    read."""
    return int(of_file(header, "block_count", 0)) - int(of_file(header, "nextn_predict_layers", 0))


def has_tensor(header: Header, ending: str) -> bool:
    """Whether a tensor's name ends so."""
    return any(tensor.name.endswith(ending) for tensor in header.tensors)


def numbers_of(tensor: Tensor) -> Numbers:
    """Return the numbers of a small tensor of float32 numbers."""
    return np.fromfile(tensor.file, dtype="<f4", count=tensor.params, offset=tensor.offset)


def head_dim_of(header: Header) -> int:
    """Return the size of a head: by the file, or the model's width shared out over its heads."""
    heads = of_file(header, "attention.head_count", 1)
    heads = max(heads) if isinstance(heads, list) else heads
    return int(
        of_file(header, "attention.key_length") or of_file(header, "embedding_length", 0) // max(1, heads)
    )


def window_layers(header: Header, every: int) -> list[str]:
    """Return each layer's kind of attention, if all but each `every`-th has a window; the file may
    say it itself."""
    pattern = of_file(header, "attention.sliding_window_pattern")
    if isinstance(pattern, list):
        has_window = of_layers(header, "attention.sliding_window_pattern")
    else:
        every = pattern or every
        has_window = [(number + 1) % every != 0 for number in range(layer_count(header))]
    return ["sliding_attention" if has else "full_attention" for has in has_window]


def pairs_apart(heads: str) -> Order:
    """Return the order of rows whose rotary pairs the converter has put side by side; heads: the
    config's name."""

    def order(config: Any, rows: int) -> Numbers:
        count = getattr(config, heads)
        return np.arange(rows).reshape(count, rows // count // 2, 2).swapaxes(1, 2).reshape(-1)

    return order


PAIRED = {
    "attn_q": Change(rows=pairs_apart("num_attention_heads")),
    "attn_k": Change(rows=pairs_apart("num_key_value_heads")),
}
# the model adds 1 to its norms' weights
ONE_MORE = {"norm": Change(numbers=lambda _config, values: values - 1)}

"""What a model will need, from config.json and the safetensors headers alone, and whether there is room; no torch.

Weights are counted tensor by tensor, as transformers and bitsandbytes will hold them: linear layers of the
blocks are quantized; embeddings, the head, norms and biases keep model.dtype; tied tensors count once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from runner.checkpoints.resolve import Resolved
from runner.checkpoints.weight_files import Tensor
from runner.config.model import Attention, LocalModelConfig
from runner.config.root import RunnerConfig
from runner.config.task import Workload
from runner.core.dtypes import BYTES, Dtype, stored_dtype
from runner.core.errors import ConfigError, DataError
from runner.core.machine import MIB
from runner.quantization import SMALLEST, read_format
from runner.quantization.base import Format, QuantizationConfig, Source

STORED_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}  # other stored types are kept as they are
IN_A_BLOCK = re.compile(r"\.\d+\.")  # model.layers.0.self_attn…, transformer.h.0.…
UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")


@dataclass(frozen=True)
class Footprint:
    """Predicted bytes; weights by part (linear, scales, embedding, head, other, lora)."""

    weights: dict[str, int]
    prefill_kv_bytes: int  # keys and values of the prompts of all rows
    decode_kv_bytes: int  # those, and of every new token
    prefill_activation_bytes: int
    decode_activation_bytes: int

    @property
    def weight_mib(self) -> float:
        """All weights."""
        return sum(self.weights.values()) / MIB

    @property
    def kv_cache_mib(self) -> float:
        """Keys and values of every position of every row, at the end of decoding."""
        return self.decode_kv_bytes / MIB

    @property
    def activation_mib(self) -> float:
        """The larger of the two activation peaks."""
        return max(self.prefill_activation_bytes, self.decode_activation_bytes) / MIB

    @property
    def prefill_mib(self) -> float:
        """What has to fit while the prompts are read."""
        return self.weight_mib + (self.prefill_kv_bytes + self.prefill_activation_bytes) / MIB

    @property
    def decode_mib(self) -> float:
        """What has to fit at the last new token."""
        return self.weight_mib + (self.decode_kv_bytes + self.decode_activation_bytes) / MIB

    @property
    def total_mib(self) -> float:
        """What has to fit besides the interpreter and its libraries, over a whole completion."""
        return max(self.prefill_mib, self.decode_mib)


def predict(config: RunnerConfig, resolved: Resolved, work: Workload) -> Footprint | None:
    """Predict the footprint of a job; None where the checkpoint has no safetensors files to read."""
    batch_size, prompt_tokens, new_tokens = work
    model, tensors = resolved.model, resolved.tensors
    settings = resolved.settings | resolved.settings.get("text_config", {})  # of a model that also sees or hears
    if not tensors:
        return None
    dtype_bytes = BYTES[compute_dtype(model, settings)]
    weights = weight_bytes(tensors, settings, config.quantization, dtype_bytes)
    if not config.lora.merges and resolved.adapter is not None:
        weights["lora"] = resolved.adapter_numbers * BYTES["float32"]  # so is an adapter of a 16-bit model held
    shape = _shape(settings)
    cache = place_bytes(settings, dtype_bytes) * batch_size  # for each position
    eager = model.attention is Attention.eager
    largest = max(elements(tensor, resolved.stored) for tensor in tensors)
    unpacked = largest * resolved.held(config.quantization).unpacked_bytes(dtype_bytes)

    def activations(tokens: int, context: int) -> int:
        return unpacked + _activation_bytes(shape, dtype_bytes, batch_size, tokens, context if eager else 0)

    context = prompt_tokens + new_tokens
    return Footprint(
        weights,
        prefill_kv_bytes=cache * prompt_tokens,
        decode_kv_bytes=cache * context,
        prefill_activation_bytes=activations(prompt_tokens, prompt_tokens),
        decode_activation_bytes=activations(1, context),
    )


def compute_dtype(model: LocalModelConfig, settings: dict[str, Any]) -> str:
    """Name the dtype that the unquantized weights, the activations and the KV cache will have."""
    name = stored_dtype(settings) if model.dtype is Dtype.auto else model.dtype.value
    return name if name in BYTES else "float32"


def place_bytes(settings: dict[str, Any], dtype_bytes: int) -> int:
    """Bytes of keys and values of one token in all layers, by a model's settings."""
    shape = _shape(settings)
    return 2 * shape["layers"] * shape["kv_heads"] * shape["head_dim"] * dtype_bytes


def pass_bytes(settings: dict[str, Any], dtype_bytes: int, rows: int, tokens: int) -> int:
    """Estimate what one pass takes besides keys and values: so many tokens of so many rows."""
    shape = _shape(settings)
    return max(_activation_bytes(shape, dtype_bytes, rows, 1, 0), _activation_bytes(shape, dtype_bytes, 1, tokens, 0))


def weight_bytes(
    tensors: list[Tensor], settings: dict[str, Any], quantization: QuantizationConfig, dtype_bytes: int
) -> dict[str, int]:
    """Bytes of the loaded weights by part, quantization constants (`scales`) included."""
    parts = dict.fromkeys(("linear", "scales", "embedding", "head", "other"), 0)
    stored = read_format(settings)
    has_embedding = any(_part(tensor) == "embedding" for tensor in tensors)
    for tensor in tensors:
        part = _part(tensor)
        if part == "head" and settings.get("tie_word_embeddings") and has_embedding:
            continue  # the same memory as the embedding
        if stored is not None and not tensor.name.endswith((".weight", ".bias")):
            held = stored.config
            part = "linear" if tensor.name.endswith(held.packed_names) else "scales"
            is_note = any(name in tensor.name for name in held.note_names)
            parts[part] += 0 if is_note else tensor.nbytes
        elif tensor.dtype not in STORED_BYTES:
            parts[part] += tensor.nbytes  # quantized before: loaded as it is
        elif part != "linear" or stored is not None:
            parts[part] += tensor.params * dtype_bytes
        else:
            linear, scales = quantization.price(tensor.shape[0], tensor.params, dtype_bytes)
            parts["linear"] += linear
            parts["scales"] += scales
    return parts


def elements(tensor: Tensor, stored: Format | None) -> int:
    """Count the numbers that a linear weight stands for, packed or not; 0 where it is none."""
    packed = stored is not None and tensor.name.endswith(stored.config.packed_names)
    if stored is not None and (packed or (_part(tensor) == "linear" and tensor.dtype in ("U8", "I8"))):
        return tensor.nbytes * 8 // stored.bits
    return tensor.params if _part(tensor) == "linear" else 0


def _activation_bytes(shape: dict[str, int], dtype_bytes: int, rows: int, tokens: int, scores_context: int) -> int:
    """Estimate the peak in the MLP or attention of one block, or at the logits, whichever is largest.

    MLP: gate, up and their product beside two copies of the hidden state. Attention: query, key, value and
    output, and a copy of one layer's keys as the cache grows; eager attention also holds its scores, in
    float32 too. Logits: the last position's, in the model's dtype and in float32.
    """
    positions = rows * tokens
    mlp = positions * (3 * shape["intermediate"] + 2 * shape["hidden"]) * dtype_bytes
    heads = 2 * shape["heads"] + 3 * shape["kv_heads"]
    attention = positions * (heads * shape["head_dim"] + 2 * shape["hidden"]) * dtype_bytes
    attention += positions * scores_context * shape["heads"] * (dtype_bytes + BYTES["float32"])
    logits = rows * shape["vocab"] * (dtype_bytes + BYTES["float32"])
    return max(mlp, attention, logits)


def _shape(settings: dict[str, Any]) -> dict[str, int]:
    """The sizes that memory depends on, under the names that Llama and GPT-2 give them."""

    def first(*keys: str, default: int = 0) -> int:
        found = next((settings[key] for key in keys if settings.get(key)), default)
        return int(max(found) if isinstance(found, list) else found)  # one for each layer: the largest

    heads = first("num_attention_heads", "n_head", default=1)
    hidden = first("hidden_size", "n_embd")
    return {
        "layers": first("num_hidden_layers", "n_layer"),
        "hidden": hidden,
        "intermediate": first("intermediate_size", "n_inner", default=4 * hidden),
        "heads": heads,
        "kv_heads": first("num_key_value_heads", default=heads),
        "head_dim": first("head_dim", default=hidden // heads),
        "vocab": first("vocab_size"),
    }


def _part(tensor: Tensor) -> str:
    if tensor.name.endswith(HEADS) and not IN_A_BLOCK.search(tensor.name):
        return "head"
    if len(tensor.shape) == 2 and tensor.name.endswith(".weight"):
        return "linear" if IN_A_BLOCK.search(tensor.name) else "embedding"
    return "other"


def check_memory(config: RunnerConfig, resolved: Resolved, rooms_mib: Mapping[str, float]) -> list[str]:
    """Refuse weights that do not fit; say it when they do, but not with what comes on top while completing."""
    if not resolved.model.check_memory:
        return []
    try:
        predicted = predict(config, resolved, config.task.workload(config.generation))
    except DataError:
        return []  # a damaged header: the load will read it, too, and name the tensor
    if predicted is None:
        return []
    free_mib = sum(rooms_mib.values())
    where = " and ".join(f"{room_mib:,.0f} MiB of {place}" for place, room_mib in rooms_mib.items())
    model, quantization = resolved.model, config.quantization.name
    if predicted.weight_mib > free_mib:
        fixes = [*_smaller(config, resolved, free_mib), "a smaller model"]
        if model.device_map is None and "main memory" not in rooms_mib:
            fixes.append("model.device=auto model.device_map=auto (spreads it over GPUs and main memory)")
        raise ConfigError(
            f"model.name={model.name} with quantization={quantization}: the weights need {predicted.weight_mib:,.0f} "
            f"MiB, and {where} are free: use {', '.join(fixes)}, or model.check_memory=false to try it all the same"
        )
    if predicted.total_mib > free_mib:
        return [
            f"memory is short: {predicted.weight_mib:,.0f} MiB of weights, {predicted.kv_cache_mib:,.0f} MiB of KV "
            f"cache and {predicted.activation_mib:,.0f} MiB of activations are predicted, and {where} are free: "
            "a smaller generation.batch_size or generation.max_new_tokens needs less"
        ]
    return []


def _smaller(config: RunnerConfig, resolved: Resolved, free_mib: float) -> list[str]:
    """Name the smallest quantization as the fix where it would be one."""
    if config.quantization.source is not Source.plain or config.lora.merges:
        return []
    smallest = SMALLEST()
    asked = replace(config, quantization=smallest)
    predicted = predict(asked, resolved, config.task.workload(config.generation))
    if predicted is None or predicted.weight_mib > free_mib:
        return []
    return [f"quantization={smallest.name} ({predicted.weight_mib:,.0f} MiB)"]


def limited(free_mib: Mapping[str, float], max_memory: Mapping[str, str] | None) -> dict[str, float]:
    """Cut each place to what model.max_memory allows there, and name it as people do."""
    if max_memory:  # as accelerate has it: a place that is not named gets nothing
        free_mib = {place: min(room, size_mib(max_memory.get(place, "0GB"))) for place, room in free_mib.items()}
    return {"main memory" if place == "cpu" else f"GPU {place}": room for place, room in free_mib.items()}


def size_mib(size: str) -> float:
    """Turn 3GB, 800MiB and the like into MiB."""
    number = size.rstrip("KMGiB")
    return float(number) * UNITS[size[len(number) : -1]] / MIB

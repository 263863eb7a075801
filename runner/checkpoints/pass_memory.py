"""What one forward pass takes besides weights, and how many tokens go through a model at once; no torch.

The scheduler reads its limits here, so that what is predicted is what it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.core.dtypes import BYTES

PREFILL_TOKENS = {"cpu": 1024, "cuda": 8192}  # of prompts that one pass reads
MOST_ROWS = {"cpu": 128, "cuda": 512}  # at once, of 16 bits: beyond these, products of matrices get no faster
THREAD_BUFFER_BYTES = 163_840  # bytes in which a thread unpacks and adds up: as in kernels/quantized.h
WAITING_NUMBERS = 2**24  # of whole distributions: 64 MiB, but of large vocabularies so many places at least
LEAST_WAITING = 256


@dataclass(frozen=True)
class PassShape:
    """The largest pass of its kind: rows that go through together, tokens of each, and what attention looks back on."""

    rows: int
    tokens: int  # of each row
    scores_context: int = 0  # positions for which eager attention holds scores; 0: it holds none


def streamed(device: str, rows: int, prompt_tokens: int) -> PassShape:
    """Return the largest pass in which the scheduler reads prompts: those that are longer go through in pieces."""
    most = PREFILL_TOKENS.get(device, PREFILL_TOKENS["cpu"])
    return PassShape(max(1, min(rows, most // max(prompt_tokens, 1))), min(prompt_tokens, most))


def most_rows(device: str, dtype_bytes: int) -> int:
    """Return how many rows go on at once: of wider numbers fewer, whose keys and values take as much memory."""
    return MOST_ROWS.get(device, MOST_ROWS["cpu"]) * BYTES["bfloat16"] // max(dtype_bytes, BYTES["bfloat16"])


def place_bytes(settings: dict[str, Any], dtype_bytes: int) -> int:
    """Bytes of keys and values of one token in all layers, by a model's settings."""
    shape = shape_of(settings)
    return 2 * shape["layers"] * shape["kv_heads"] * shape["head_dim"] * dtype_bytes


def pass_bytes(settings: dict[str, Any], dtype_bytes: int, rows: int, tokens: int) -> int:
    """Estimate what one pass takes besides keys and values: so many tokens of so many rows."""
    shape = shape_of(settings)
    return max(
        activation_bytes(shape, dtype_bytes, PassShape(rows, 1)),
        activation_bytes(shape, dtype_bytes, PassShape(1, tokens)),
    )


def activation_bytes(shape: dict[str, int], dtype_bytes: int, what: PassShape) -> int:
    """Estimate the peak in the MLP or attention of one block, or at the logits, whichever is largest.

    MLP: gate, up and their product beside two copies of the hidden state. Attention: query, key, value and
    output, and a copy of one layer's keys as the cache grows; eager attention also holds its scores, in
    float32 too. Logits: the last position's, in the model's dtype and in float32.
    """
    positions = what.rows * what.tokens
    mlp = positions * (3 * shape["intermediate"] + 2 * shape["hidden"]) * dtype_bytes
    heads = 2 * shape["heads"] + 3 * shape["kv_heads"]
    attention = positions * (heads * shape["head_dim"] + 2 * shape["hidden"]) * dtype_bytes
    attention += positions * what.scores_context * shape["heads"] * (dtype_bytes + BYTES["float32"])
    logits = what.rows * shape["vocab"] * (dtype_bytes + BYTES["float32"])
    return max(mlp, attention, logits)


def shape_of(settings: dict[str, Any]) -> dict[str, int]:
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


def quantized_workspace_bytes(rows: int, inputs: int, threads: int) -> int:
    """Return what kernels/quantized.h works in: rows as bytes, what is known of rows and columns, room of threads."""
    padded = -(-inputs // 64) * 64
    return padded * (rows + 5) + 4 * rows + 64 + threads * THREAD_BUFFER_BYTES + 64 * 6


def waiting_places(vocab_size: int) -> int:
    """Return how many whole distributions of one model may wait at a time for those of another, in float32."""
    return max(WAITING_NUMBERS // max(vocab_size, 1), LEAST_WAITING)

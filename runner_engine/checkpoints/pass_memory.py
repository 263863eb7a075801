"""The memory of one forward pass besides weights, and the limits of how many tokens it may have; no
torch.

The scheduler reads its limits here, so that predictions match what it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner_base import BYTES
from runner_engine.checkpoints.kept_kv import kept_kv
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.sampling import SamplingKeys, active_parameters

PREFILL_TOKENS = {"cpu": 1024, "cuda": 8192}  # prompt tokens in one pass
# at once, in 16 bits: with more rows, matrix products get no more efficient
MAX_ROWS = {"cpu": 128, "cuda": 512}
THREAD_BUFFER_BYTES = 163_840  # in which a thread unpacks and sums: as in kernels/quantized.h
FEWEST_PLACES = 64  # of own keys that a decoding step on a GPU reads
# of waiting distributions: 64 MiB, or more for the distributions of MIN_WAITING positions
WAITING_NUMBERS = 2**24
MIN_WAITING = 256


@dataclass(frozen=True)
class PassShape:
    """The largest pass of its kind: its rows, the tokens of each, and the context of eager
    attention."""

    rows: int
    tokens: int  # of each row
    scores_context: int = 0  # positions for which eager attention stores scores; 0: not eager
    sampled_bytes: int = 0  # for each of the logits, to draw a token by them


def streamed(device: str, rows: int, prompt_tokens: int) -> PassShape:
    """Return the largest prefill pass of the scheduler, which splits longer prompts into pieces."""
    most = PREFILL_TOKENS.get(device, PREFILL_TOKENS["cpu"])
    return PassShape(max(1, min(rows, most // max(prompt_tokens, 1))), min(prompt_tokens, most))


def most_rows(device: str, dtype_bytes: int) -> int:
    """Return how many rows may decode at once: fewer with wider numbers, so that the KV cache takes
    the same memory."""
    return MAX_ROWS.get(device, MAX_ROWS["cpu"]) * BYTES["bfloat16"] // max(dtype_bytes, BYTES["bfloat16"])


def place_bytes(settings: dict[str, Any], dtype_bytes: int, kv_cache: KvCache = KvCache.as_model) -> int:
    """Return the bytes of keys and values of one token in all layers, from a model's settings."""
    return kept_kv(settings, dtype_bytes, kv_cache).token_bytes


def pass_bytes(settings: dict[str, Any], dtype_bytes: int, rows: int, tokens: int) -> int:
    """Estimate what one pass of so many rows and tokens takes besides keys and values."""
    shape = shape_of(settings)
    return max(
        activation_bytes(shape, dtype_bytes, PassShape(rows, 1)),
        activation_bytes(shape, dtype_bytes, PassShape(1, tokens)),
    )


def activation_bytes(shape: dict[str, int], dtype_bytes: int, pass_shape: PassShape) -> int:
    """Estimate the peak in the MLP or attention of one block, or at the logits, whichever is
    largest.

    MLP: gate, up and their product, and two copies of the hidden state. Attention: query, key,
    value and output, and a copy of one layer's keys as the cache grows; eager attention also stores
    its scores, in the model's dtype and in float32. Logits: the last position's, in the model's
    dtype and in float32, and what torch needs to draw from them.
    """
    positions = pass_shape.rows * pass_shape.tokens
    mlp = positions * (3 * shape["intermediate"] + 2 * shape["hidden"]) * dtype_bytes
    heads = 2 * shape["heads"] + 3 * shape["kv_heads"]
    attention = positions * (heads * shape["head_dim"] + 2 * shape["hidden"]) * dtype_bytes
    attention += positions * pass_shape.scores_context * shape["heads"] * (dtype_bytes + BYTES["float32"])
    logits = pass_shape.rows * shape["vocab"] * (dtype_bytes + BYTES["float32"] + pass_shape.sampled_bytes)
    return max(mlp, attention, logits)


def sampled_bytes(sampling: SamplingKeys) -> int:
    """Return what torch needs for each of the logits to draw a token where no C does it: as in
    tokens/sampling.py.

    A top_p that is null is often one of the model's own settings.
    """
    penalties = active_parameters(sampling, lambda one: one.for_greedy)
    # whether and how often a row has it; its lowered score
    of_history = 1 + 4 + BYTES["float32"] if penalties else 0
    if not sampling.temperature:
        return of_history
    of_sorting = BYTES["float64"] if sampling.top_p is None or sampling.top_p < 1 else 0
    return 2 * BYTES["float64"] + of_sorting + of_history  # probabilities and their sums


def recorded_rows(rows: int, first: int = 0, last: int = 0) -> int:
    """Return the rows whose logits recorded decoding steps keep on a GPU: as in
    decode/passes/device_step.py.

    A step is recorded for each rounded number of rows, which becomes less as rows end one after
    another. Where own keys are read up to the longest row's, from place `first` to `last`, the
    rounded number of these makes another one, too.
    """
    places, count = {FEWEST_PLACES}, FEWEST_PLACES
    while count < last:
        places |= {count * 3 // 2, count * 2}
        count *= 2
    used = [place for place in sorted(places) if place >= first]
    shapes = sum(before < last for before in [0, *used[:-1]])
    fewer = {rounded_rows(count) for count in range(1, rows + 1)}
    return sum(fewer) + max(shapes - 1, 0) * rounded_rows(rows)


def rounded_rows(count: int) -> int:
    """Return a number of rows rounded up: to a power of two, or a multiple of 16 or of an
    eighth."""
    if count <= 16:
        return 1 << (count - 1).bit_length()
    step = max(16, 1 << ((count - 1).bit_length() - 3))
    return -(-count // step) * step


def shape_of(settings: dict[str, Any]) -> dict[str, int]:
    """Return the sizes that memory depends on, from settings with Llama's or GPT-2's key names."""

    def first(*keys: str, default: int = 0) -> int:
        value = next((settings[key] for key in keys if settings.get(key)), default)
        # one for each layer: the largest
        return int(max(value) if isinstance(value, list) else value)

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
    """Return the workspace of kernels/quantized.h: rows as bytes, data on rows and columns, and
    thread buffers."""
    padded = -(-inputs // 64) * 64
    # scales; sums, and those of halves, as integers and as numbers
    of_parts = rows * padded // 32 * (1 + 3 + 3) * 4
    return padded * (rows + 5) + 4 * rows + of_parts + 64 + threads * THREAD_BUFFER_BYTES + 64 * 10


def expert_workspace_bytes(
    rows: int, experts: int, hidden: int, inner: int, size: int, of_product: int
) -> int:
    """Return the workspace of kernels/experts.h without that of quantized rows: rows of all chosen
    experts, in order.

    of_product: bytes of what C notes on the rows of an expert.
    """
    return expert_note_bytes(rows, experts, of_product) + rows * (hidden + 3 * inner) * size + 64 * 3


def expert_note_bytes(rows: int, experts: int, of_product: int) -> int:
    """Return what is noted there on the rows of a layer."""
    return 8 * rows + 8 * (experts + 1) + 2 * min(rows, experts) * of_product + 64 * 5


def waiting_places(vocab_size: int) -> int:
    """Return how many float32 distributions of one model may wait at a time for those of
    another."""
    return max(WAITING_NUMBERS // max(vocab_size, 1), MIN_WAITING)

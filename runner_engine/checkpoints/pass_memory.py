"""Estimates the activation memory of a forward pass, and limits its number of tokens. Imports no
torch.

The scheduler reads its limits here, so that predictions match it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner_base import BYTES
from runner_engine.checkpoints.kv_size import compute_kv_size
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.sampling import SamplingKeys, get_effective_parameters

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
    """The shape of a forward pass: number of sequences, tokens per sequence, and attention scores
    to store.
    """

    rows: int
    tokens: int  # of each row
    scores_context: int = 0  # positions for which eager attention stores scores; 0: not eager
    sampled_bytes: int = 0  # for each of the logits, to draw a token by them


def compute_largest_prefill_pass_shape(device: str, num_sequences: int, prompt_tokens: int) -> PassShape:
    """Return the shape of the scheduler's largest prefill pass. Longer prompts are split into
    several passes.
    """
    most = PREFILL_TOKENS.get(device, PREFILL_TOKENS["cpu"])
    return PassShape(max(1, min(num_sequences, most // max(prompt_tokens, 1))), min(prompt_tokens, most))


def compute_max_sequences(device: str, dtype_bytes: int) -> int:
    """Return how many sequences may decode at the same time.

    Larger dtypes allow fewer sequences, to limit KV memory.
    """
    return MAX_ROWS.get(device, MAX_ROWS["cpu"]) * BYTES["bfloat16"] // max(dtype_bytes, BYTES["bfloat16"])


def compute_kv_bytes_per_token(
    config: dict[str, Any], dtype_bytes: int, kv_cache: KvCache = KvCache.as_model
) -> int:
    return compute_kv_size(config, dtype_bytes, kv_cache).token_bytes


def estimate_pass_nbytes(config: dict[str, Any], dtype_bytes: int, num_sequences: int, tokens: int) -> int:
    shape = read_layer_dimensions(config)
    return max(
        estimate_activation_nbytes(shape, dtype_bytes, PassShape(num_sequences, 1)),
        estimate_activation_nbytes(shape, dtype_bytes, PassShape(1, tokens)),
    )


def estimate_activation_nbytes(model_sizes: dict[str, int], dtype_bytes: int, pass_shape: PassShape) -> int:
    """Estimate the peak activation bytes of a forward pass: MLP, attention or logits, whichever is
    largest.

    MLP: gate, up and their product, and two copies of the hidden state. Attention: query, key, value
    and output, and a copy of one layer's keys as the cache grows; eager attention also stores its
    scores, in the model's dtype and in float32. Logits: the last position's, in the model's dtype and
    in float32, and what torch needs to sample from them.
    """
    positions = pass_shape.rows * pass_shape.tokens
    mlp = positions * (3 * model_sizes["intermediate"] + 2 * model_sizes["hidden"]) * dtype_bytes
    heads = 2 * model_sizes["heads"] + 3 * model_sizes["kv_heads"]
    attention = positions * (heads * model_sizes["head_dim"] + 2 * model_sizes["hidden"]) * dtype_bytes
    attention += (
        positions * pass_shape.scores_context * model_sizes["heads"] * (dtype_bytes + BYTES["float32"])
    )
    logits = (
        pass_shape.rows * model_sizes["vocab"] * (dtype_bytes + BYTES["float32"] + pass_shape.sampled_bytes)
    )
    return max(mlp, attention, logits)


def compute_sampling_bytes_per_logit(sampling: SamplingKeys) -> int:
    """Return the temporary bytes per logit that sampling with these parameters needs.

    A top_p of null often means the model's own setting.
    """
    penalties = get_effective_parameters(sampling, lambda one: one.for_greedy)
    # whether and how often a row has it; its lowered score
    of_history = 1 + 4 + BYTES["float32"] if penalties else 0
    if not sampling.temperature:
        return of_history
    of_sorting = BYTES["float64"] if sampling.top_p is None or sampling.top_p < 1 else 0
    return 2 * BYTES["float64"] + of_sorting + of_history  # probabilities and their sums


def count_cuda_graph_logit_vectors(
    num_sequences: int, first_position: int = 0, last_position: int = 0
) -> int:
    """Return the number of logit vectors that all recorded CUDA graphs together store.

    This matches decode/passes/device_step.py. A step is recorded for each rounded batch size, which
    shrinks as sequences end. If unshared keys are read up to the longest sequence, whose length grows
    from first_position to last_position, each rounded length adds a step.
    """
    places, count = {FEWEST_PLACES}, FEWEST_PLACES
    while count < last_position:
        places |= {count * 3 // 2, count * 2}
        count *= 2
    used = [place for place in sorted(places) if place >= first_position]
    shapes = sum(before < last_position for before in [0, *used[:-1]])
    fewer = {round_up_batch_size(count) for count in range(1, num_sequences + 1)}
    return sum(fewer) + max(shapes - 1, 0) * round_up_batch_size(num_sequences)


def round_up_batch_size(batch_size: int) -> int:
    """Round a batch size up, to limit the number of distinct tensor shapes.

    Sizes up to 16 become powers of two. Larger sizes become multiples of 16 or of an eighth.
    """
    if batch_size <= 16:
        return 1 << (batch_size - 1).bit_length()
    step = max(16, 1 << ((batch_size - 1).bit_length() - 3))
    return -(-batch_size // step) * step


def read_layer_dimensions(config: dict[str, Any]) -> dict[str, int]:
    """Read the model sizes that determine memory use from a config with the keys of Llama or GPT-2."""

    def find_first_setting(*keys: str, default: int = 0) -> int:
        value = next((config[key] for key in keys if config.get(key)), default)
        # one for each layer: the largest
        return int(max(value) if isinstance(value, list) else value)

    heads = find_first_setting("num_attention_heads", "n_head", default=1)
    hidden = find_first_setting("hidden_size", "n_embd")
    return {
        "layers": find_first_setting("num_hidden_layers", "n_layer"),
        "hidden": hidden,
        "intermediate": find_first_setting("intermediate_size", "n_inner", default=4 * hidden),
        "heads": heads,
        "kv_heads": find_first_setting("num_key_value_heads", default=heads),
        "head_dim": find_first_setting("head_dim", default=hidden // heads),
        "vocab": find_first_setting("vocab_size"),
    }


def compute_quantized_workspace_nbytes(num_activations: int, num_inputs: int, num_threads: int) -> int:
    """Return the workspace bytes that kernels/quantized.h needs for int8 activations, sums and
    thread buffers.
    """
    padded = -(-num_inputs // 64) * 64
    # scales; sums, and those of halves, as integers and as numbers
    of_parts = num_activations * padded // 32 * (1 + 3 + 3) * 4
    return (
        padded * (num_activations + 5)
        + 4 * num_activations
        + of_parts
        + 64
        + num_threads * THREAD_BUFFER_BYTES
        + 64 * 10
    )


def compute_expert_workspace_nbytes(
    num_activations: int,
    num_experts: int,
    hidden_size: int,
    intermediate_size: int,
    element_bytes: int,
    description_bytes: int,
) -> int:
    """Return the workspace bytes that kernels/experts.h needs, without the workspace for quantized
    activations.

    description_bytes: bytes of the C matmul description of one expert.
    """
    return (
        compute_expert_index_nbytes(num_activations, num_experts, description_bytes)
        + num_activations * (hidden_size + 3 * intermediate_size) * element_bytes
        + 64 * 3
    )


def compute_expert_index_nbytes(num_activations: int, num_experts: int, description_bytes: int) -> int:
    """Return the bytes of the index that lists which activations are routed to which expert of a layer."""
    return (
        8 * num_activations
        + 8 * (num_experts + 1)
        + 2 * min(num_activations, num_experts) * description_bytes
        + 64 * 5
    )


def compute_max_queued_distributions(vocab_size: int) -> int:
    """Return how many float32 token distributions may be queued until another model's distributions
    are ready.
    """
    return max(WAITING_NUMBERS // max(vocab_size, 1), MIN_WAITING)

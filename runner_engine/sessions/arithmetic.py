"""FLOP and bytes that a loaded model needs for its tokens, and this machine's limits.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

GIGA = 1e9


@dataclass(frozen=True)
class HardwareRates:
    """Highest rates measured on this machine: matmuls, and reading memory."""

    matrix_gflop_per_s: float
    read_gb_per_s: float


@dataclass(frozen=True)
class BatchShape:
    """A batch of prompts of equal length, with an optional shared prefix, and a number of new
    tokens.
    """

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    shared_tokens: int = 0  # of each prompt, computed once for all rows


@dataclass(frozen=True)
class ModelArithmetic:
    """Parameter and byte counts of a loaded model, and a function that measures the machine's
    rates.

    A matmul takes two operations per parameter and token. Norms, activations, the sampler and
    dequantization are not counted.
    """

    layer_parameters: int  # every token goes through so many: of a mixture, through its active ones
    head_parameters: int  # of the output layer: only for tokens whose next token is needed
    attention_flop: int  # of one token that attends to one token, in all layers
    weight_bytes: int  # as stored, of the weights that a pass reads
    kv_bytes: int  # keys and values of one token
    dtype: str
    measure: Callable[[], HardwareRates]  # takes about half a second
    expert_bytes: int = 0  # of weight_bytes, those of experts of which each token uses a few
    touched: Callable[[float], float] | None = None  # the share of them that a step of so many rows uses

    def prefill_gflop(self, shape: BatchShape) -> float:
        """Return the GFLOP of prefilling the prompts. A shared prefix counts once."""
        own = shape.prompt_tokens - shape.shared_tokens
        tokens = shape.shared_tokens + shape.batch_size * own
        pairs = _triangular_number(shape.shared_tokens)
        pairs += shape.batch_size * (
            _triangular_number(shape.prompt_tokens) - _triangular_number(shape.shared_tokens)
        )
        flop = 2 * (self.layer_parameters * tokens + self.head_parameters * shape.batch_size)
        return (flop + self.attention_flop * pairs) / GIGA

    def decode_gflop(self, shape: BatchShape) -> float:
        """Return the GFLOP of all new tokens after the first of each sequence."""
        steps = shape.new_tokens - 1
        pairs = steps * shape.prompt_tokens + _triangular_number(steps)
        each = 2 * (self.layer_parameters + self.head_parameters) * steps + self.attention_flop * pairs
        return shape.batch_size * each / GIGA

    def decode_gb(self, shape: BatchShape) -> float:
        """Return the least GB that decoding reads: per step all weights once and each sequence's KV
        cache.

        For a mixture, a step reads the experts that its sequences would use if all were chosen
        equally often.
        """
        steps = shape.new_tokens - 1
        own = shape.prompt_tokens - shape.shared_tokens
        cached = steps * (
            shape.shared_tokens + shape.batch_size * own
        ) + shape.batch_size * _triangular_number(steps)
        untouched = 0.0 if self.touched is None else self.expert_bytes * (1 - self.touched(shape.batch_size))
        return ((self.weight_bytes - untouched) * steps + self.kv_bytes * cached) / GIGA


def _triangular_number(count: int) -> int:
    return count * (count + 1) // 2

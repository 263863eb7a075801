"""FLOP and bytes per token of a loaded model, and this machine's measured limits.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

GIGA = 1e9


@dataclass(frozen=True)
class HardwareRates:
    """Highest measured rates of this machine: matmul speed and memory read bandwidth."""

    matrix_gflop_per_s: float
    read_gb_per_s: float


@dataclass(frozen=True)
class BatchShape:
    """A batch of prompts with equal length, an optional shared prefix, and a number of new tokens."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    shared_tokens: int = 0  # of each prompt, computed once for all rows


@dataclass(frozen=True)
class ModelArithmetic:
    """Parameter and byte counts of a loaded model, with a function that measures this machine's rates.

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

    def compute_prefill_gflop(self, batch: BatchShape) -> float:
        """Return the GFLOP needed to prefill the prompts of a batch. A shared prefix counts once."""
        own = batch.prompt_tokens - batch.shared_tokens
        tokens = batch.shared_tokens + batch.batch_size * own
        pairs = _triangular_number(batch.shared_tokens)
        pairs += batch.batch_size * (
            _triangular_number(batch.prompt_tokens) - _triangular_number(batch.shared_tokens)
        )
        flop = 2 * (self.layer_parameters * tokens + self.head_parameters * batch.batch_size)
        return (flop + self.attention_flop * pairs) / GIGA

    def compute_decode_gflop(self, batch: BatchShape) -> float:
        """Return the GFLOP for decoding all new tokens of a batch.

        The first token of each sequence belongs to prefill.
        """
        steps = batch.new_tokens - 1
        pairs = steps * batch.prompt_tokens + _triangular_number(steps)
        each = 2 * (self.layer_parameters + self.head_parameters) * steps + self.attention_flop * pairs
        return batch.batch_size * each / GIGA

    def compute_gb_read_while_decoding(self, batch: BatchShape) -> float:
        """Return the minimum number of GB that decoding a batch reads.

        Each step reads all weights once and each sequence's KV cache.

        For a mixture, a step reads the experts that its sequences would use if all were chosen
        equally often.
        """
        steps = batch.new_tokens - 1
        own = batch.prompt_tokens - batch.shared_tokens
        cached = steps * (
            batch.shared_tokens + batch.batch_size * own
        ) + batch.batch_size * _triangular_number(steps)
        untouched = 0.0 if self.touched is None else self.expert_bytes * (1 - self.touched(batch.batch_size))
        return ((self.weight_bytes - untouched) * steps + self.kv_bytes * cached) / GIGA


def _triangular_number(count: int) -> int:
    return count * (count + 1) // 2

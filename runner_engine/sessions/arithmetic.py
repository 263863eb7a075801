"""What a loaded model computes and reads for its tokens, and this machine's limits. Imports no
torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

GIGA = 1e9


@dataclass(frozen=True)
class Rates:
    """The highest rates measured on this machine: matrix products, and reading memory."""

    matrix_gflop_per_s: float
    read_gb_per_s: float


@dataclass(frozen=True)
class Shape:
    """A batch of rows with prompts of equal length, which may begin with the same tokens, and new
    tokens."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    shared_tokens: int = 0  # of each prompt, computed once for all rows


@dataclass(frozen=True)
class Arithmetic:
    """Counts for the loaded model, and a function that measures the machine's rates for it.

    A product with a weight matrix takes two operations for each parameter and token. Norms,
    activations, the sampler and the unpacking of quantized weights are not counted.
    """

    layer_parameters: int  # every token goes through so many: of a mixture, through its active ones
    head_parameters: int  # of the output layer: only for tokens whose next token is needed
    attention_flop: int  # of one token that attends to one token, in all layers
    weight_bytes: int  # as stored, of the weights that a pass reads
    kv_bytes: int  # keys and values of one token
    dtype: str
    measure: Callable[[], Rates]  # takes about half a second
    expert_bytes: int = 0  # of weight_bytes, those of experts of which each token uses a few
    touched: Callable[[float], float] | None = None  # the share of them that a step of so many rows uses

    def prefill_gflop(self, shape: Shape) -> float:
        """Return the operations to read the prompts."""
        own = shape.prompt_tokens - shape.shared_tokens
        tokens = shape.shared_tokens + shape.batch_size * own
        pairs = _sum_to(shape.shared_tokens)
        pairs += shape.batch_size * (_sum_to(shape.prompt_tokens) - _sum_to(shape.shared_tokens))
        flop = 2 * (self.layer_parameters * tokens + self.head_parameters * shape.batch_size)
        return (flop + self.attention_flop * pairs) / GIGA

    def decode_gflop(self, shape: Shape) -> float:
        """Return the operations for all new tokens after the first of each row."""
        steps = shape.new_tokens - 1
        pairs = steps * shape.prompt_tokens + _sum_to(steps)
        each = 2 * (self.layer_parameters + self.head_parameters) * steps + self.attention_flop * pairs
        return shape.batch_size * each / GIGA

    def decode_gb(self, shape: Shape) -> float:
        """Return the least that decoding reads: in each step all weights once, and the KV cache of
        each row.

        Of a mixture's experts, a step reads as many as its rows would use if each was chosen
        equally often.
        """
        steps = shape.new_tokens - 1
        own = shape.prompt_tokens - shape.shared_tokens
        cached = steps * (shape.shared_tokens + shape.batch_size * own) + shape.batch_size * _sum_to(steps)
        untouched = 0.0 if self.touched is None else self.expert_bytes * (1 - self.touched(shape.batch_size))
        return ((self.weight_bytes - untouched) * steps + self.kv_bytes * cached) / GIGA


def _sum_to(count: int) -> int:
    return count * (count + 1) // 2

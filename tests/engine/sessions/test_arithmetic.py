"""What a model computes and reads, compared with a count token by token."""

from __future__ import annotations

import pytest

from runner_engine.sessions.arithmetic import BatchShape, HardwareRates, ModelArithmetic

SMALL = ModelArithmetic(1000, 300, 8, 5000, 16, "float32", lambda: HardwareRates(1.0, 1.0))


@pytest.mark.parametrize(
    "shape", [BatchShape(1, 5, 4), BatchShape(3, 7, 2), BatchShape(3, 7, 5, 4), BatchShape(2, 6, 3, 6)]
)
def test_counted_token_by_token(shape: BatchShape) -> None:
    prefill = 2 * 300 * shape.batch_size
    for place in range(1, shape.shared_tokens + 1):
        prefill += 2 * 1000 + 8 * place
    decode = read = 0
    for _ in range(shape.batch_size):
        for place in range(shape.shared_tokens + 1, shape.prompt_tokens + 1):
            prefill += 2 * 1000 + 8 * place
    for step in range(1, shape.new_tokens):
        read += 5000 + 16 * shape.shared_tokens
        for _ in range(shape.batch_size):
            decode += 2 * 1300 + 8 * (shape.prompt_tokens + step)
            read += 16 * (shape.prompt_tokens - shape.shared_tokens + step)
    assert SMALL.compute_prefill_gflop(shape) == pytest.approx(prefill / 1e9)
    assert SMALL.compute_decode_gflop(shape) == pytest.approx(decode / 1e9)
    assert SMALL.compute_gb_read_while_decoding(shape) == pytest.approx(read / 1e9)

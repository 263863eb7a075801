"""A long prompt is read in pieces after which rows that decode wait little; without such rows it is
read as before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runner_base.dtypes import Dtype
from runner_engine.attention.attention import PassLayout
from runner_engine.decode.passes import chunk_size
from runner_engine.decode.passes.chunk_size import LEAST_TOKENS, WAIT_S, ChunkSizer
from runner_engine.decode.passes.forward import Forward
from runner_engine.kernels import native
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Completion, Request
from runner_engine.settings.model import LocalModelConfig


def test_the_next_piece_takes_as_long_as_a_row_may_wait() -> None:
    pace = ChunkSizer()
    pace.record_pass(800, 4 * WAIT_S)
    assert pace.tokens == 200
    pace.record_pass(200, WAIT_S / 2)
    assert pace.tokens == 400
    pace.record_pass(400, 100.0)
    assert pace.tokens == LEAST_TOKENS


@pytest.mark.skipif(
    native.load_kernels() is None,
    reason="no C compiler is here, so rows do not decode in passes with prompts",
)
def test_pieces_are_small_only_while_rows_decode(
    opened: Callable[..., LocalEngine], saved_family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_size, "FIRST_TOKENS", 90)
    monkeypatch.setattr(ChunkSizer, "record_pass", lambda *_: None)
    folder = saved_family("llama", max_position_embeddings=4096)
    engine = opened(model=LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32))
    passes: list[int] = []
    real = Forward._run_model

    def forward(
        self: Forward, what: PassLayout, ids: list[int], positions: list[int], keep: Any
    ) -> torch.Tensor:
        passes.append(len(ids))
        return real(self, what, ids, positions, keep)

    monkeypatch.setattr(Forward, "_run_model", forward)
    numbers = torch.Generator().manual_seed(5)
    short, long = (tuple(torch.randint(5, 60, (count,), generator=numbers).tolist()) for count in (9, 2500))
    answers = {}
    for name, asked in (("alone", [long]), ("beside", [short, long])):
        tokens: dict[int | str, Any] = {}
        with engine.open(4) as session:
            for number, prompt in enumerate(asked):
                session.submit(
                    Request(number, prompt, max_new_tokens=60 if prompt is short else 5, ignore_eos=True)
                )
                tokens |= {
                    one.id: one.answer.num_tokens for one in session.step() if isinstance(one, Completion)
                }
            passes.clear()
            while not session.is_idle:
                tokens |= {
                    one.id: one.answer.num_tokens for one in session.step() if isinstance(one, Completion)
                }
        answers[name] = tokens[len(asked) - 1]
        largest = max(passes)
        assert (largest <= 91) == (name == "beside")
    assert answers["alone"] == answers["beside"]

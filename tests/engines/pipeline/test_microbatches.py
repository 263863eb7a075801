"""The rounds of a pipeline: every stage has a batch to work on while there is one, and nothing is kept for what ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stages import split_into

from runner.config.generation import GenerationConfig
from runner.config.model import Dtype, ModelConfig
from runner.config.root import RunnerConfig
from runner.config.task import PipelineConfig
from runner.engines.base import EngineStats, Request
from runner.engines.pipeline.microbatches import Rounds
from runner.engines.pipeline.stage_worker import Member, Place
from runner.engines.pipeline.transport import Kind, Message
from runner.engines.rows import Row
from runner.engines.stopping import Stopping
from runner.sharding.load_part import load_tokenizer

DEPTH = 3


class Line:
    """Real stages in this process, that remember what was asked of them and say how much is under way."""

    depth = DEPTH

    def __init__(self, member: Member) -> None:
        self.member, self.answers, self.under_way = member, deque[Message](), list[int]()
        self.asked: list[tuple[Kind, int, int]] = []

    def step(self, message: Message, tokens: torch.Tensor) -> None:
        self.asked.append((message.kind, message.batch, len(tokens)))
        answer = self.member.run(message, tokens)
        assert answer is not None
        self.answers.append(answer)

    def end(self, number: int) -> None:
        self.member.run(Message(Kind.end, number))

    def answer(self) -> Message:
        self.under_way.append(len(self.answers))
        return self.answers.popleft()


@pytest.mark.parametrize(("micro_batch", "batches"), [(None, 3), (1, 7), (3, 3), (16, 1)])
def test_as_many_batches_as_stages_are_under_way(
    saved_family: Any, make_config: Callable[..., RunnerConfig], tmp_path: Path, micro_batch: int | None, batches: int
) -> None:
    parts = split_into(saved_family("llama"), tmp_path / "parts", 2)
    task = PipelineConfig(parts=str(parts), prompt="x", micro_batch=micro_batch)
    model = ModelConfig(name="embedded", device="cpu", dtype=Dtype.float32)
    config = make_config(task=task, model=model, generation=GenerationConfig(name="greedy", max_new_tokens=4))
    member = Member(config, Place(0, 1, 0, 1))
    line, stats = Line(member), EngineStats()
    rows = [Row(Request(index, "x"), [10 + index] * (index + 1), "", limit=2 + index % 3) for index in range(7)]
    rounds = Rounds(line, config, stats, Stopping(load_tokenizer(parts)), pad=0)
    done = sorted((one.id, len(one.token_ids)) for events in rounds.run(rows, None) for one in events)
    assert done == [(index, 2 + index % 3) for index in range(7)]
    assert len({batch for _, batch, _ in line.asked}) == batches
    assert line.asked[: min(batches, DEPTH)] == [
        (Kind.prefill, n, line.asked[n][2]) for n in range(min(batches, DEPTH))
    ]
    assert max(line.under_way) == min(DEPTH, batches)
    assert line.under_way == sorted(line.under_way, reverse=True), "a stage went without work while a batch was waiting"
    assert sum(size for kind, _, size in line.asked if kind is Kind.decode) == sum(1 + i % 3 for i in range(7))
    assert stats.prefill_tokens == sum(range(1, 8))
    assert stats.decode_tokens == sum(1 + i % 3 for i in range(7))
    assert member._batches == {}, "caches of what has ended"

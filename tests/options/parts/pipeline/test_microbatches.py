"""The micro-batches of a pipeline: every stage has work while there is some, and ended rows leave
no state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from in_parts import in_parts
from stages import split_into

from runner.config.root import RunnerConfig
from runner.options.parts.pipeline.microbatches import MicroBatchScheduler
from runner.options.parts.pipeline.ranks import ProcessRank
from runner.options.parts.pipeline.stage_worker import StageWorker
from runner.options.parts.pipeline.transport import Packet, PacketType
from runner.options.parts.sharding.load_part import load_tokenizer
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens.stopping import Stopping
from runner_engine.sessions.base import Completion, Request
from runner_engine.sessions.stats import EngineStats
from runner_engine.settings.generation import GenerationConfig

DEPTH = 3


class Stages:
    """Real stages in this process, which record their packets and how many are under way."""

    def __init__(self, worker: StageWorker) -> None:
        self.worker, self.answers, self.under_way = worker, deque[Packet](), list[int]()
        self.packets: list[tuple[PacketType, int, int]] = []

    def send(self, packet: Packet, tokens: torch.Tensor | None = None) -> None:
        answer = self.worker.run_step(packet, tokens)
        if tokens is not None:
            assert answer is not None
            self.packets.append((packet.kind, packet.batch, len(tokens)))
            self.answers.append(answer)

    def receive(self) -> Packet:
        self.under_way.append(len(self.answers))
        return self.answers.popleft()


@pytest.mark.parametrize(("micro_batch", "batches"), [(None, 3), (1, 7), (3, 3), (16, 1)])
def test_as_many_batches_as_stages_are_under_way(
    saved_family: Any,
    make_config: Callable[..., RunnerConfig],
    tmp_path: Path,
    micro_batch: int | None,
    batches: int,
) -> None:
    parts = split_into(saved_family("llama"), tmp_path / "parts", 2)
    model = in_parts(parts, micro_batch=micro_batch)
    config = make_config(model=model, generation=GenerationConfig(max_new_tokens=4))
    worker = StageWorker(config, ProcessRank(0, 1, 0, 1))
    stages, stats = Stages(worker), EngineStats()
    rows = [
        TokenSequence(Request(index, "x"), [10 + index] * (index + 1), "", limit=2 + index % 3)
        for index in range(7)
    ]
    micro_batches = MicroBatchScheduler(
        DEPTH, stages.send, stages.receive, stats, Stopping(load_tokenizer(parts)), pad_token=0
    )
    micro_batches.fixed_rows = micro_batch
    micro_batches.add(rows)
    done: list[tuple[Any, int]] = []
    while len(done) < len(rows):
        done += [
            (one.id, len(one.answer.token_ids)) for one in micro_batches.step() if isinstance(one, Completion)
        ]
    done.sort(key=str)
    assert done == [(index, 2 + index % 3) for index in range(7)]
    assert len({batch for _, batch, _ in stages.packets}) == batches
    assert stages.packets[: min(batches, DEPTH)] == [
        (PacketType.prefill, n, stages.packets[n][2]) for n in range(min(batches, DEPTH))
    ]
    assert max(stages.under_way) == min(DEPTH, batches)
    assert stages.under_way == sorted(stages.under_way, reverse=True), (
        "a stage went without work while a batch was waiting"
    )
    assert sum(size for kind, _, size in stages.packets if kind is PacketType.decode) == sum(
        1 + i % 3 for i in range(7)
    )
    assert stats.prefill_tokens == sum(range(1, 8))
    assert stats.decode_tokens == sum(1 + i % 3 for i in range(7))
    assert worker._states == {}, "the state of ended micro-batches is freed"

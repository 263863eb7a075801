"""Recordings of decoding steps: what is recorded, checked, replayed, left out and forgotten."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from step_decoding import DEVICES, Decoding, Replayed, assert_close

from runner_engine.decode.passes.step_graphs import RECORD_AT, CudaGraphRecorder


@DEVICES
def test_recorded_steps_are_replayed_until_what_they_read_moves(
    pair: Callable[..., list[Decoding]], device: str
) -> None:
    usual, ours = pair("llama", device, page=0)  # with pages, no recording reads a prefix of its own
    step = ours.forward.device_step
    assert step is not None
    if device == "cpu":
        step.graphs.record = Replayed
    for _ in range(RECORD_AT - 1):
        assert_close(ours.step(), usual.step())
    assert not step.graphs.recordings
    for _ in range(4):
        assert_close(ours.step(), usual.step())
    [recording] = step.graphs.recordings.values()
    if isinstance(recording, Replayed):
        assert recording.replays == 5, "two for the comparison, and one for each step after it"
    for decoding in (usual, ours):
        decoding.own.ensure_capacity(200, 400)  # other tensors
    assert_close(ours.step(), usual.step())
    assert not step.graphs.recordings
    for _ in range(RECORD_AT):
        assert_close(ours.step(), usual.step())
    assert len(step.graphs.recordings) == 1
    for decoding in (usual, ours):  # the rows on the branch end, so its keys are not read any more
        decoding.leave(0)
        decoding.leave(1)
    assert not any(row.kv.prefix and row.kv.prefix.parent for row in ours.rows)
    assert_close(ours.step(), usual.step())
    assert not step.graphs.recordings


class ReplaysNothing(Replayed):
    """As a graph that was recorded on another GPU's stream: empty, beside logits that were computed
    meanwhile."""

    def replay(self) -> None:
        self.replays += 1


class ReplaysOldTokens(Replayed):
    """As a graph that holds a copy of the table."""

    def replay(self) -> None:
        with torch.inference_mode():
            self.logits.copy_(self.first)

    def __init__(self, run: Callable[[], torch.Tensor]) -> None:
        super().__init__(run)
        self.first = self.logits.clone()


def not_permitted(run: Callable[[], torch.Tensor]) -> Replayed:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("record", "why"),
    [
        (ReplaysNothing, "mean logit error is nan "),
        (ReplaysOldTokens, r"mean logit error is \d"),
        (not_permitted, "not permitted"),
    ],
)
def test_a_recording_that_differs_or_fails_is_not_used(
    pair: Callable[..., list[Decoding]], record: Any, why: str
) -> None:
    usual, ours = pair()
    step = ours.forward.device_step
    assert step is not None
    step.graphs.record = record
    for _ in range(RECORD_AT + 1):
        assert_close(ours.step(), usual.step())
    assert not step.graphs.recordings
    assert step.graphs.record is not None, "other shapes may work"
    assert re.search(why, step.graphs.summary)
    assert step.graphs.summary.startswith("none: 1 shape not recorded: ")


def test_one_shape_that_fails_leaves_the_others_recorded(pair: Callable[..., list[Decoding]]) -> None:
    usual, ours = pair()
    step = ours.forward.device_step
    assert step is not None
    failing = [True]
    step.graphs.record = lambda run: not_permitted(run) if failing.pop() else Replayed(run)
    for _ in range(RECORD_AT + 1):
        assert_close(ours.step(), usual.step())
    failing.append(False)
    for decoding in (usual, ours):
        decoding.leave(0)  # four rows, a shape of its own
    for _ in range(RECORD_AT + 2):
        assert_close(ours.step(), usual.step())
    assert len(step.graphs.recordings) == 1
    share = round(100 * 2 / (2 * RECORD_AT + 3))
    failure = "1 shape not recorded: operation not permitted when stream is capturing"
    assert step.graphs.summary == f"1 shape, {share} % of steps; {failure}"


def test_graphs_are_recorded_and_replayed_on_their_models_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call that CUDA relates to the current GPU is made within the model's one."""
    current, calls = [0], []

    class On:
        def __init__(self, device: torch.device) -> None:
            self.index = device.index

        def __enter__(self) -> None:
            self.before, current[0] = current[0], self.index

        def __exit__(self, *_: object) -> None:
            current[0] = self.before

    class Graph:
        def replay(self) -> None:
            calls.append(("replay", current[0]))

    @contextlib.contextmanager
    def graph(*_: object, **__: object) -> Iterator[None]:
        calls.append(("record", current[0]))
        yield

    handle = lambda: calls.append(("pool", current[0]))  # noqa: E731
    for name, instead in {
        "device": On,
        "CUDAGraph": Graph,
        "graph": graph,
        "graph_pool_handle": handle,
    }.items():
        monkeypatch.setattr(torch.cuda, name, instead)
    CudaGraphRecorder(torch.device("cuda:1"))(lambda: torch.zeros(1)).replay()
    assert calls == [("pool", 1), ("record", 1), ("replay", 1)]


def test_a_model_that_waits_is_not_recorded(
    pair: Callable[..., list[Decoding]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    usual, ours = pair()
    step = ours.forward.device_step
    assert step is not None
    step.graphs.record, norm = Replayed, ours.forward.model.model.norm
    own = norm.forward
    monkeypatch.setattr(norm, "forward", lambda rows: own(rows) if rows.sum().item() else rows)
    for _ in range(RECORD_AT):
        assert_close(ours.step(), usual.step())
    assert step.graphs.record is None
    assert "decoding steps are not recorded" in caplog.text
    assert "_local_scalar_dense" in caplog.text

"""All batchings answer alike, also where sampling, stops, scores, or memory that runs out come in
between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from listening import complete_with_deltas
from opening import make_spec, open_engine
from streams import NEW_TOKENS, PROMPTS, complete, requests

from runner_base import machine
from runner_base.dtypes import Dtype
from runner_base.result import FinishReason
from runner_engine.decode import static_batches
from runner_engine.decode.static_batches import BY_GENERATE, BatchingMode
from runner_engine.memory import memory_guard
from runner_engine.sessions import contract
from runner_engine.sessions.base import Completion, Request
from runner_engine.sessions.contract import Engine
from runner_engine.sessions.shortages import SequenceShortage
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalModelConfig

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

PADDED = BatchingMode()
SAMPLING = GenerationConfig(max_new_tokens=NEW_TOKENS, temperature=0.9, repetition_penalty=1.2)
CUDA_SAYS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


@pytest.fixture
def make_engine(saved_family: Callable[..., Path]) -> Callable[..., Engine]:
    def make(batching: BatchingMode = PADDED, generation: GenerationConfig = SAMPLING) -> Engine:
        folder = saved_family("llama", max_position_embeddings=512)
        model = LocalModelConfig(
            name=str(folder), device="cpu", dtype=Dtype.float32, attention=Attention.sdpa
        )
        engine = open_engine(make_spec(model=model, generation=generation))
        engine.load()
        engine._batching = batching
        return engine

    return make


@pytest.mark.thorough
@pytest.mark.parametrize(
    "batching", [BatchingMode(equal_length=True), BY_GENERATE, replace(BY_GENERATE, alone=True)], ids=str
)
def test_all_batchings_give_the_same_answers(
    make_engine: Callable[..., Engine], batching: BatchingMode
) -> None:
    padded, other = make_engine(), make_engine(batching)
    assert complete(other, requests()) == complete(padded, requests())
    (done,) = contract.complete_requests(make_engine(), requests(PROMPTS[:1]))
    stop = done.answer.text[3:5]
    asked: list[Any] = requests(stop=(stop,), max_new_tokens=9)
    asked += [Request("scored", "1+1=", continuation="2 and 3"), Request("n", "x", n=3)]

    def answers(engine: Engine) -> dict[Any, Completion]:
        heard: dict[Any, list[str]] = {}
        done = complete_with_deltas(
            engine, asked, lambda delta: heard.setdefault((delta.id, delta.choice), []).append(delta.text)
        )
        assert all("".join(heard.get((one.id, one.choice), [])) == one.answer.text for one in done)
        return {(one.id, one.choice): one for one in done}

    ours, theirs = answers(other), answers(padded)
    for key, done in ours.items():
        assert (done.answer, done.greedy) == (theirs[key].answer, theirs[key].greedy)
        assert torch.allclose(
            torch.tensor(done.logprobs or []), torch.tensor(theirs[key].logprobs or []), atol=1e-4
        )
    assert other.stats.decode_tokens == padded.stats.decode_tokens


@pytest.fixture
def fail_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, ...]], None]:
    """Return a function that has memory run out in some of the next forward passes of static
    batches."""
    real = static_batches._forward_with_cache

    def arrange(numbers: tuple[int, ...]) -> None:
        count = 0

        def forward(*arguments: Any) -> torch.Tensor:
            nonlocal count
            count += 1
            if count in numbers:
                raise RuntimeError(CUDA_SAYS)
            return real(*arguments)

        monkeypatch.setattr(static_batches, "_forward_with_cache", forward)

    return arrange


@pytest.mark.thorough
@pytest.mark.parametrize("numbers", [(1,), (5,), (5, 6, 9)], ids=str)
def test_memory_that_runs_out_changes_no_answer(
    make_engine: Callable[..., Engine], fail_at: Callable[[tuple[int, ...]], None], numbers: tuple[int, ...]
) -> None:
    engine = make_engine()
    expected = complete(engine, requests())
    fail_at(numbers)
    assert complete(engine, requests()) == expected
    shortages = engine.stats.row_shortages
    assert len(shortages) == len(numbers)
    assert shortages[0] == SequenceShortage(rows=len(PROMPTS) // 2, asked_rows=len(PROMPTS), ran_out=True)


def test_one_row_that_does_not_fit_alone_is_an_error_of_that_row(
    make_engine: Callable[..., Engine], fail_at: Callable[[tuple[int, ...]], None]
) -> None:
    engine = make_engine()
    fail_at((1, 2))
    first, second = sorted(
        contract.complete_requests(engine, requests(["x", "longer"])), key=lambda done: done.id
    )
    assert second.answer.finish_reason is FinishReason.error
    assert second.error == "this request alone, with 6 tokens, needs more memory than is available"
    assert first.error is None


def test_an_error_of_another_kind_goes_on_its_way(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()

    def forward(*_: Any) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(static_batches, "_forward_with_cache", forward)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        complete(engine, requests())


@pytest.mark.parametrize("batching", [PADDED, BY_GENERATE], ids=str)
def test_rows_are_set_back_before_the_kernel_ends_the_process(
    make_engine: Callable[..., Engine], batching: BatchingMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Main memory that runs short is seen beforehand: no error comes, but a kill."""
    alike = requests([PROMPTS[0]] * 4)  # of one length, so that generate takes them together, too
    expected = complete(make_engine(batching), alike)
    said: list[float] = []

    def free() -> float:
        said.append(10.0 if 8 < len(said) < 12 else 10_000.0)
        return said[-1]

    monkeypatch.setattr(memory_guard, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(machine, "available_memory_mib", free)
    engine = make_engine(batching)
    said.clear()
    assert complete(engine, alike) == expected
    assert any(shortage.ran_out for shortage in engine.stats.row_shortages)


@pytest.mark.thorough
def test_as_many_rows_go_together_as_there_is_room_for(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    expected = complete(engine, requests())
    monkeypatch.setattr(memory_guard, "MARGIN_MIB", 0.0)
    monkeypatch.setattr(memory_guard, "LAST_MIB", 0.0)
    monkeypatch.setattr(machine, "available_memory_mib", lambda: 0.4)
    assert complete(engine, requests()) == expected
    [shortage] = engine.stats.row_shortages
    assert (shortage.ran_out, shortage.asked_rows) == (False, len(PROMPTS))

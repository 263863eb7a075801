"""The pipeline as an ordinary engine: requests while it runs, sampling per request, cancelling,
deltas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from in_parts import in_parts
from job_engines import open_engine
from raising import raises
from stages import split_into
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner.config.root import RunnerConfig
from runner.options.parts.pipeline.stage_worker import StageWorker
from runner_base.errors import ConfigError, JobFailed
from runner_base.result import FinishReason
from runner_engine.sessions.base import Capability, Completion, Delta, Event, Request
from runner_engine.sessions.contract import Engine, complete_requests
from runner_engine.sessions.session import Session
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.sampling import Sampling

HOT = Sampling(temperature=1.0, top_k=20, seed=5)
PENALIZED = Sampling(
    temperature=0.7,
    top_p=0.9,
    min_p=0.02,
    repetition_penalty=1.2,
    frequency_penalty=0.4,
    presence_penalty=0.3,
)
MIXED = [
    Request("a", "one", sampling=HOT),
    Request(7, "two two", sampling=PENALIZED, max_new_tokens=5),
    Request("c", "to be or not", n=3, sampling=HOT),
    Request("d", "why"),
]


@pytest.fixture(scope="module")
def parts(saved_family: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_into(saved_family("llama"), tmp_path_factory.mktemp("engine") / "parts", 2)


@pytest.fixture
def make(
    make_config: Callable[..., RunnerConfig], parts: Path, tmp_path: Path, warm_children: None
) -> Iterator[Callable[..., Engine]]:
    opened: list[Engine] = []

    def build(**keys: Any) -> Engine:
        model, generation = (in_parts(**({"parts": parts} | keys)), GenerationConfig(max_new_tokens=12))
        opened.append(open_engine(make_config(model=model, generation=generation), folder=tmp_path))
        return opened[-1]

    yield build
    for engine in opened:
        engine.close()


def finish(session: Session) -> list[Event]:
    events: list[Event] = []
    while not session.is_idle:
        events += session.step()
    return events


def completions(events: list[Event]) -> dict[tuple[Any, int], list[int]]:
    return {(one.id, one.choice): one.answer.token_ids for one in events if isinstance(one, Completion)}


def alone(engine: Engine, requests: list[Request]) -> dict[tuple[Any, int], list[int]]:
    return {
        key: ids
        for request in requests
        for key, ids in completions(list(complete_requests(engine, [request]))).items()
    }


def test_requests_with_different_settings_get_the_same_tokens_in_one_batch_as_alone(
    make: Callable[..., Engine],
) -> None:
    engine = make(micro_batch=8)
    together = completions(list(complete_requests(engine, MIXED)))
    assert together == alone(engine, MIXED)
    assert len(together) == 6
    assert len({tuple(together["c", choice]) for choice in range(3)}) == 3, (
        "each choice has its own random numbers"
    )
    assert len(together[7, 0]) == 5


@pytest.mark.thorough
def test_a_request_may_come_while_others_are_under_way(make: Callable[..., Engine]) -> None:
    engine = make(micro_batch=2)
    expected = alone(engine, MIXED)
    with engine.open() as session:
        session.submit(MIXED[0])
        events = session.step() + session.step()
        with raises(ConfigError, "exists"):
            session.submit(MIXED[0])
        for request in MIXED[1:]:
            session.submit(request)
        events += finish(session)
    assert completions(events) == expected


def test_cancelling_ends_a_request_at_once_and_no_other(make: Callable[..., Engine]) -> None:
    engine = make(micro_batch=2)
    expected = alone(engine, MIXED)
    with engine.open() as session:
        for request in MIXED:
            session.submit(request)
        session.step()
        session.step()
        for request_id in ("c", "d", "unknown"):  # one may be under way, the other still waits
            session.cancel(request_id)
        ended = {(one.id, one.choice): one for one in session.step() if isinstance(one, Completion)}
        assert {key for key in ended if key[0] in ("c", "d")} == {("c", 0), ("c", 1), ("c", 2), ("d", 0)}
        assert all(
            ended[key].answer.finish_reason is FinishReason.cancelled for key in ended if key[0] in ("c", "d")
        )
        left = completions([*ended.values(), *finish(session)])
    assert {key: left[key] for key in (("a", 0), (7, 0))} == {
        key: expected[key] for key in (("a", 0), (7, 0))
    }


def test_a_session_that_is_closed_early_does_not_affect_the_next(make: Callable[..., Engine]) -> None:
    engine = make(micro_batch=1)
    expected = alone(engine, MIXED)
    with engine.open() as session:
        for request in MIXED:
            session.submit(request)
        session.step()
    assert completions(list(complete_requests(engine, MIXED))) == expected


def test_text_comes_as_deltas_that_add_up(make: Callable[..., Engine]) -> None:
    with make().open() as session:
        session.submit(Request(0, "one", deltas=True))
        events = finish(session)
    [done] = [one for one in events if isinstance(one, Completion)]
    pieces = [one.text for one in events if isinstance(one, Delta)]
    assert "".join(pieces) == done.answer.text
    assert len(pieces) > 1


def test_its_capabilities_are_known_before_it_loads(make: Callable[..., Engine]) -> None:
    engine = make(parts="nowhere")
    assert engine.capabilities == frozenset(Capability) - {
        Capability.adapters,
        Capability.branches,
        Capability.logprobs,
        Capability.distributions,
        Capability.token_scores,
        Capability.drawn_tokens,
        Capability.own_memory,
        Capability.continuing,
        Capability.grammar,
    }
    with make().open() as session:
        for request in (Request(0, "x", branches=("y",)), Request(0, "x", continuation="y")):
            with pytest.raises(
                ConfigError, match=r"needs (branches|log-probabilities).* which this engine does not support"
            ):
                session.submit(request)


def test_a_prompt_that_does_not_fit_is_an_error_of_its_own(make: Callable[..., Engine]) -> None:
    ended = {one.id: one for one in complete_requests(make(), [Request(0, "x" * 300), Request(1, "fine")])}
    assert ended[0].error == "the prompt has 300 tokens, but the model has room for 256"
    assert ended[1].answer.finish_reason is FinishReason.length


def test_its_report_has_the_parts_and_its_stats_have_their_figures(make: Callable[..., Engine]) -> None:
    engine = make()
    assert [(part["part"], part["process"]) for part in engine.load().parts] == [(0, 0), (1, 0)]
    list(complete_requests(engine, MIXED))
    [process] = engine.stats.processes
    assert process["busy_s"] > 0
    assert process["peak_rss_mib"] > 0


def test_the_work_of_a_session_that_is_closed_early_is_counted(make: Callable[..., Engine]) -> None:
    engine = make()
    with engine.open() as session:
        session.submit_all(MIXED)
        session.step()
    assert engine.stats.processes[0]["busy_s"] > 0


def test_batch_size_limits_the_rows_at_once(make: Callable[..., Engine]) -> None:
    engine = make(micro_batch=8)
    expected, seen = alone(engine, MIXED), list[int]()
    done = completions([*complete_requests(engine, MIXED, 2, lambda _: seen.append(engine.stats.rows_alive))])
    assert done == expected
    assert max(seen) <= 2


def test_an_error_in_a_step_ends_the_engine(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make()
    with engine.open() as session:
        session.check()
        session.submit(MIXED[0])

        def fail(*_: object) -> None:
            raise MemoryError("no room")

        monkeypatch.setattr(StageWorker, "run_step", fail)
        with pytest.raises(MemoryError):
            session.step()
        with raises(JobFailed, "failed"):
            session.check()


@pytest.mark.slow
def test_two_processes_sample_like_one(make: Callable[..., Engine]) -> None:
    expected = alone(make(), MIXED)
    engine = make(stages=2, micro_batch=2)
    assert completions(list(complete_requests(engine, MIXED))) == expected
    assert len(engine.stats.processes) == 2
    assert completions(list(complete_requests(engine, MIXED))) == expected, "in a second session"


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_row_whose_logits_are_nan_ends_with_an_error(
    make: Callable[..., Engine], saved_family: Callable[..., Path], tmp_path: Path, processes: int
) -> None:
    """The embedding of z is NaN: rows with a z end with an error, and the other rows continue."""
    model: Any = AutoModelForCausalLM.from_pretrained(saved_family("llama"))
    tokenizer = AutoTokenizer.from_pretrained(saved_family("llama"))
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("z").input_ids[0]] = float("nan")
    model.save_pretrained(tmp_path / "damaged")
    tokenizer.save_pretrained(tmp_path / "damaged")
    damaged = split_into(tmp_path / "damaged", tmp_path / "parts", 2)
    asked = [
        Request(0, "to be"),
        Request(1, "zoo", n=2, sampling=HOT),
        Request(2, "z"),
        Request(3, "or not", sampling=PENALIZED),
    ]
    engine = make(parts=str(damaged), stages=processes, micro_batch=3)
    done = {(one.id, one.choice): one for one in complete_requests(engine, asked)}
    assert sorted(done) == [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0)]
    for (number, _), one in done.items():
        is_damaged = number in (1, 2)
        assert (one.answer.finish_reason is FinishReason.error) is is_damaged
        assert (
            (
                "the model's logits are NaN. Its weights are damaged or overflow in this dtype. Try another "
                "model.dtype"
            )
            in str(one.error)
        ) is is_damaged
        assert bool(one.answer.token_ids) is not is_damaged
    whole = completions(list(complete_requests(make(micro_batch=3), [asked[0], asked[3]])))
    assert {key: done[key].answer.token_ids for key in whole} == whole
    assert [one.error for one in complete_requests(engine, asked[:1])] == [None], (
        "later requests are answered"
    )

"""Steps that begin before the host has read the tokens of the last one: the same answers, by another order of work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from step_decoding import Replayed
from streams import NEW_TOKENS, requests
from torch.overrides import TorchFunctionMode

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.result import FinishReason
from runner_engine.decode.passes.async_step import SWITCH, AsyncStep
from runner_engine.decode.passes.device_step import DeviceDecodeStep, StepInputs
from runner_engine.decode.passes.forward import Forward
from runner_engine.decode.sequences import TokenSequence
from runner_engine.kernels import token_selection
from runner_engine.kv_cache.sequence_kv import SequenceKv
from runner_engine.kv_cache.slots import SlotStore
from runner_engine.local.engine import LocalEngine, LocalSession
from runner_engine.sessions import contract
from runner_engine.sessions.base import Completion, Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.sampling import Sampling

Opened = Callable[..., LocalEngine]
Work = Callable[[LocalEngine], Any]
SAMPLED = Sampling(temperature=0.9, top_p=0.9, seed=3)
PENALIZED = replace(SAMPLED, repetition_penalty=1.2, frequency_penalty=0.2, top_k=40)


@pytest.fixture
def opened_here(
    opened: Opened, saved_family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], LocalEngine]:
    """Return a function that loads a model whose steps and samples are computed as on a GPU."""
    monkeypatch.setenv("RUNNER_ATTENTION", "sdpa")
    monkeypatch.setattr(token_selection, "get_kernels_for_logits", lambda _: None)
    folder = saved_family("llama", max_position_embeddings=512)

    def engine() -> LocalEngine:
        model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32)
        one = opened(model=model, generation=GenerationConfig(max_new_tokens=NEW_TOKENS))
        one.load()
        return one

    return engine


@pytest.fixture
def both_ways(
    opened_here: Callable[[], LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Work], Any]:
    """Return a function that does some work without steps that begin ahead, and with them; both
    give the same."""
    begun, step = list[int](), Forward.run_step_with_device_tokens

    def counted(
        self: Forward, own: SlotStore, rows: Sequence[TokenSequence], *rest: Any
    ) -> torch.Tensor | None:
        begun.append(len(rows))
        return step(self, own, rows, *rest)

    monkeypatch.setattr(Forward, "run_step_with_device_tokens", counted)

    def work_in_both(work: Work) -> Any:
        results = []
        for switch in ("0", "1"):
            monkeypatch.setenv(SWITCH, switch)
            begun.clear()
            results.append(work(opened_here()))
            assert bool(begun) is (switch == "1")
        assert results[0] == results[1]
        return results[1]

    return work_in_both


def asked(**keys: Any) -> list[Request]:
    """Requests that end at different steps, so that rows move into other slots, and others
    enter."""
    return [replace(one, max_new_tokens=2 + 5 * int(one.id) % 17, **keys) for one in requests()]


def ended(engine: LocalEngine, wanted: Sequence[Request], size: int | None = None) -> dict[Any, Any]:
    """What came out for each request."""
    return {
        one.id: (one.answer, one.error, one.logprobs)
        for one in contract.complete_requests(engine, wanted, size)
    }


MIXED = [
    replace(one, sampling=[Sampling(temperature=0.0), SAMPLED, PENALIZED][number % 3])
    for number, one in enumerate(asked())
]
THINKING = [
    replace(one, prompt=f"{one.prompt}<think>\n", thinking_tokens=3 + int(one.id), ignore_eos=True)
    for one in MIXED
]
SCORED = [
    one if number % 4 else Request(one.id, one.prompt, continuation=" and so on")
    for number, one in enumerate(MIXED)
]


@pytest.mark.thorough
@pytest.mark.parametrize("size", [None, 5, 1])
@pytest.mark.parametrize(
    "wanted", [asked(), MIXED, THINKING, SCORED], ids=["greedy", "sampled", "thinking", "scored"]
)
def test_answers_are_those_of_steps_that_wait(
    both_ways: Callable[[Work], Any], wanted: list[Request], size: int | None
) -> None:
    done = both_ways(lambda engine: ended(engine, wanted, size))
    assert len(done) == len(wanted)
    assert {error for _, error, _ in done.values()} == {None}


@pytest.mark.thorough
def test_rows_end_at_tokens_and_texts(both_ways: Callable[[Work], Any]) -> None:
    def work(engine: LocalEngine) -> dict[Any, Any]:
        free = ended(engine, requests(ignore_eos=True))
        engine.loaded.model.generation_config.eos_token_id = free[0][0].token_ids[7]
        stops = [
            replace(one, stop=(free[one.id][0].text[5:7],)) if int(one.id) % 3 else one for one in requests()
        ]
        return ended(engine, stops, 5)

    lengths = {len(answer.token_ids) for answer, _, _ in both_ways(work).values()}
    assert len(lengths) > 3


@pytest.mark.thorough
def test_rows_are_cancelled_between_steps(both_ways: Callable[[Work], Any]) -> None:
    """Those in the first slots, into which the last ones move."""

    def work(engine: LocalEngine) -> dict[Any, Any]:
        done: list[Completion] = []
        with engine.open() as session:
            assert isinstance(session, LocalSession)
            session.submit_all(asked(sampling=PENALIZED))
            for step in range(100):
                done += [event for event in session.step() if isinstance(event, Completion)]
                if step == 4:
                    assert session.scheduler is not None
                    for row in session.scheduler.rows.active[:2]:
                        session.cancel(row.request.id)
                if session.is_idle:
                    break
        return {one.id: one.answer for one in done}

    reasons = [answer.finish_reason for answer in both_ways(work).values()]
    assert reasons.count(FinishReason.cancelled) == 2
    assert len(reasons) == len(requests())


@pytest.mark.thorough
@pytest.mark.parametrize("kept", [{"keep": True}, {"recurring": True}], ids=str)
def test_what_is_kept_of_a_row_has_no_token_that_it_did_not_have(
    both_ways: Callable[[Work], Any], kept: dict[str, bool]
) -> None:
    def work(engine: LocalEngine) -> Any:
        first = ended(engine, asked(**kept))
        more = [
            replace(one, prompt=(*engine.encode(one)[1], *first[one.id][0].token_ids, *range(70, 110)))
            for one in asked(**kept)
        ]
        return first, ended(engine, more), engine.stats.shared_tokens, engine.stats.prefill_tokens

    both_ways(work)


@pytest.mark.thorough
def test_a_row_without_numbers_harms_no_other(both_ways: Callable[[Work], Any]) -> None:
    """A token that some answers come to has an embedding of NaN; others enter the slots of these
    rows."""

    def work(engine: LocalEngine) -> dict[Any, Any]:
        free = ended(engine, asked(), 3)
        token = free[1][0].token_ids[4]
        with torch.no_grad():
            engine.loaded.model.get_input_embeddings().weight[token] = torch.nan
        assert not any(token in engine.encode(one)[1] for one in asked())
        done = ended(engine, asked(), 3)
        assert all(answer == free[one][0] for one, (answer, error, _) in done.items() if error is None)
        return {one: (answer.token_ids, error) for one, (answer, error, _) in done.items()}

    errors = [error for _, error in both_ways(work).values() if error is not None]
    assert 0 < len(errors) < len(requests())


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "failing", [("step", (4,)), ("step", (4, 5)), ("step", (3, 7, 8)), ("prompts", (1, 2))], ids=str
)
def test_memory_that_runs_out_loses_nothing(
    both_ways: Callable[[Work], Any], failing: tuple[str, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a step that begins ahead, for one that has to run, or for prompts that are read between
    steps."""
    real = Forward._run_model

    def work(engine: LocalEngine) -> dict[Any, Any]:
        passes, ahead_failed = {"step": 0, "prompts": 0}, list[bool]()

        def forward(self: Forward, layout: Any, *rest: Any) -> torch.Tensor:
            kind = "step" if isinstance(layout, StepInputs) else "prompts"
            passes[kind] += kind == "step" or passes["step"] > 0
            if kind == failing[0] and passes[kind] in failing[1]:
                ahead_failed.append(getattr(layout, "picked", None) is not None)
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return real(self, layout, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(Forward, "_run_model", forward)
            done = ended(engine, asked(sampling=PENALIZED), 9)
        assert len(ahead_failed) == len(failing[1])
        assert len(engine.stats.row_shortages) == ahead_failed.count(False), (
            "rows are fewer after a step that had to run"
        )
        assert {error for _, error, _ in done.values()} == {None}
        return done

    both_ways(work)


@pytest.mark.thorough
def test_recorded_steps_are_replayed_ahead(
    both_ways: Callable[[Work], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All recorded steps have their logits in one place."""
    begin = DeviceDecodeStep.__init__
    monkeypatch.setattr(
        DeviceDecodeStep, "__init__", lambda self, model, heads: begin(self, model, heads, Replayed)
    )

    def work(engine: LocalEngine) -> dict[Any, Any]:
        done = ended(engine, THINKING, 6)
        assert " % of steps" in engine.stats.decoding_graphs
        return done

    both_ways(work)


@pytest.mark.thorough
def test_a_token_without_an_embedding_is_told_of(
    opened_here: Callable[[], LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for switch in ("0", "1"):
        monkeypatch.setenv(SWITCH, switch)
        engine = opened_here()
        free = ended(engine, requests(ignore_eos=True))
        largest, number = next(  # the first tokens go through a step that has waited for them
            (most, number) for number, (answer, _, _) in sorted(free.items())
            if (most := max(answer.token_ids[2:-1])) > max(answer.token_ids[:2])
        )  # fmt: skip
        with engine.open() as session:
            assert isinstance(session, LocalSession)
            session.submit(requests(ignore_eos=True)[number])
            session.step()
            assert session.scheduler is not None
            session.scheduler.decoder.forward.rows = largest
            with pytest.raises(ConfigError) as error:
                contract.run_requests(session, [], lambda _: True)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert f"answered with token {largest}, and its embedding ends at {largest - 1}" in said[0]


# -------------------------------------------------------------------------------- the order of work


class HostReads(TorchFunctionMode):
    """Notes what turns a tensor into numbers of Python."""

    def __init__(self, work: list[str]) -> None:
        super().__init__()
        self.work = work

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in (
            "tolist",
            "numpy",
            "item",
            "cpu",
            "__bool__",
            "__int__",
            "__float__",
        ):
            self.work.append("read")
        return func(*args, **(kwargs or {}))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("switch", ["0", "1"])
def test_the_next_step_begins_before_the_only_read_of_a_step(
    opened_here: Callable[[], LocalEngine], switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, switch)
    engine, work, call = opened_here(), list[str](), DeviceDecodeStep.__call__

    def noted(self: DeviceDecodeStep, step: StepInputs, *rest: Any) -> torch.Tensor:
        work.append(f"step of {len(step.rows)}")
        return call(self, step, *rest)

    monkeypatch.setattr(DeviceDecodeStep, "__call__", noted)
    wanted = [replace(one, max_new_tokens=6 - number % 2) for number, one in enumerate(MIXED[:4])]
    of_steps = []
    with engine.open() as session:
        session.submit_all(wanted)
        session.step()  # reads the prompts and picks the first tokens
        work.clear()
        while not session.is_idle:
            with HostReads(work):
                session.step()
            of_steps.append(work[:])
            work.clear()
    if switch == "0":
        assert of_steps == [["step of 4", "read"]] * 4 + [["step of 2", "read"]]
    else:
        assert of_steps == [["step of 4", "step of 4", "read"], *[["step of 4", "read"]] * 3, ["read"]]


def test_a_gpu_copies_the_tokens_before_the_next_step_and_the_host_waits_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work: list[str] = []

    def note(what: str, result: Any = None) -> Callable[..., Any]:
        return lambda *_, **__: [work.append(what), result][1]  # type: ignore[func-returns-value]

    event = SimpleNamespace(record=note("record"), synchronize=note("wait"))
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    picked: Any = SimpleNamespace(is_cuda=True, device="cuda:1", to=note("copy", torch.tensor([5, 6])))
    forward: Any = SimpleNamespace(run_step_with_device_tokens=note("step", torch.zeros(2, 3)))
    own: Any = object.__new__(SlotStore)
    own.capacity, own.filled = 8, [1, 1]
    rows = [TokenSequence(Request(number, ()), [1], "", 9, kv=SequenceKv(places=1)) for number in range(2)]
    assert AsyncStep(forward).copy_sampled_tokens_to_host(picked, own, rows, []) == [5, 6]
    assert work == ["copy", "record", "step", "wait"]
    assert own.filled == [2, 2]

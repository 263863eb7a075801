"""An answer that was begun goes on with the tokens that it would have had, whatever its rest is
read beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines import create_lazy_engine
from runner_base.dtypes import Dtype
from runner_engine.decode.passes.forward import SHORT_SPAN
from runner_engine.local.engine import LocalSession
from runner_engine.sessions.base import Capability, Completion, Event, PartialAnswers, Request
from runner_engine.sessions.contract import Engine, complete_requests, run_requests
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.sampling import Sampling

STORY = "Tom has some apples and buys some more, then he gives a few of them away. How many does he have? "
LIMIT = 40


def answer(completion: Completion) -> tuple[object, ...]:
    return completion.answer.token_ids, completion.answer.text, completion.answer.finish_reason


def alone(
    engine: Engine, request: Request, all_requests: list[Request], size: int | None
) -> list[Completion]:
    """Return the completions of a request; the others, with which it may share a beginning, are
    only mentioned."""
    done: list[Event] = []
    with engine.open(size) as session:
        session.announce_prompts([other for other in all_requests if other.id != request.id])
        run_requests(session, [request], done.extend)
    return [event for event in done if isinstance(event, Completion)]


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=1.0, top_p=0.9, seed=5, repetition_penalty=1.2, frequency_penalty=0.4)],
    ids=["greedy", "sampled"],
)
def test_every_answer_goes_on_from_any_place(
    make_config: Callable[..., RunnerConfig], dtype: str, sampling: Sampling
) -> None:
    config = make_config(model=LocalModelConfig(name="embedded", dtype=Dtype(dtype)))
    engine = create_lazy_engine(resolve_job(config))
    choices = 1 if sampling == Sampling() else 2
    requests = [
        Request(number, f"{STORY * number}{number} and {number + 3}", (" 7",) if number % 2 else (), LIMIT,
                ignore_eos=number % 3 == 0, sampling=sampling, n=choices)
        for number in range(1, 7)
    ]  # fmt: skip
    whole = {(it.id, it.choice): it for it in complete_requests(engine, requests)}
    assert engine.stats.can_continue
    assert len({len(it.answer.token_ids) for it in whole.values()}) > 1

    def begun(request: Request, share: float) -> Request:
        every = [whole[request.id, choice] for choice in range(choices)]
        cut = tuple(tuple(one.answer.token_ids[: round(share * len(one.answer.token_ids))]) for one in every)
        return replace(request, begun=PartialAnswers(every[0].prompt_sha256, cut))

    for share, size in product((0.0, 0.3, 0.95, 1.0), (None, 1)):
        again = [one for request in requests for one in alone(engine, begun(request, share), requests, size)]
        assert {(it.id, it.choice): answer(it) for it in again} == {
            key: answer(it) for key, it in whole.items()
        }
    engine.close()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("ended", [0, 1, 2])
def test_beginnings_are_shared_as_among_all_choices(
    make_config: Callable[..., RunnerConfig], ended: int
) -> None:
    """How keys are split changes last bits: choices that have ended, and those of answered
    requests, count, too."""
    config = make_config(model=LocalModelConfig(name="embedded", dtype=Dtype.bfloat16))
    engine = create_lazy_engine(resolve_job(config))
    sampled = Sampling(temperature=1.0, seed=5)
    first, second = (
        Request(
            number, f"{STORY * 2}{number} and 7", max_new_tokens=12, sampling=sampled, n=3, ignore_eos=True
        )
        for number in (1, 2)
    )

    def shared(answered: list[Request], requests: list[Request]) -> tuple[list[int], list[Completion]]:
        done: list[Event] = []
        with engine.open() as session:
            assert isinstance(session, LocalSession)
            session.announce_prompts(answered)
            session.submit_all(requests)
            done += session.step()
            scheduler = session.scheduler
            assert scheduler is not None
            rows = [*scheduler.rows.in_slots, *scheduler.rows.waiting]
            lengths = [row.kv.num_shared_tokens for row in rows if row.request.id == second.id]
            while not session.is_idle:
                done += session.step()
        return lengths, [it for it in done if isinstance(it, Completion) and it.id == second.id]

    among_all, whole = shared([], [first, second])
    assert among_all[0] > 0
    tokens = [one.answer.token_ids for one in sorted(whole, key=lambda one: one.choice)]
    cut = tuple(tuple(some) if at < ended else tuple(some[:3]) for at, some in enumerate(tokens))
    resumed, again = shared([first], [replace(second, begun=PartialAnswers(whole[0].prompt_sha256, cut))])
    assert resumed == among_all[ended:]
    assert {it.choice: answer(it) for it in again} == {it.choice: answer(it) for it in whole}
    engine.close()


@pytest.mark.thorough
def test_after_a_long_prompt_too(make_config: Callable[..., RunnerConfig]) -> None:
    """A long prompt is attended to in another order of sums than decoded tokens; what was begun
    belongs to the latter."""
    config = make_config(model=LocalModelConfig(name="embedded", dtype=Dtype.bfloat16))
    engine = create_lazy_engine(resolve_job(config))
    sampling = Sampling(temperature=2.0, seed=3)
    requests = [
        Request(number, STORY * number, max_new_tokens=230, ignore_eos=True, sampling=sampling)
        for number in (3, 9, 10, 12, 17)
    ]
    whole = {it.id: it for it in complete_requests(engine, requests)}
    assert [it.prompt_tokens > SHORT_SPAN for it in whole.values()] == [False, True, True, True, True]
    for share in (0.1, 0.6, 0.95):
        begun = {
            one.id: PartialAnswers(
                one.prompt_sha256, (tuple(one.answer.token_ids[: round(share * len(one.answer.token_ids))]),)
            )
            for one in whole.values()
        }
        again = complete_requests(engine, [replace(request, begun=begun[request.id]) for request in requests])
        assert {it.id: answer(it) for it in again} == {name: answer(it) for name, it in whole.items()}
    engine.close()


@pytest.mark.thorough
def test_what_was_begun_of_another_prompt_is_ignored(make_config: Callable[..., RunnerConfig]) -> None:
    config = make_config(model=LocalModelConfig(name="embedded", dtype=Dtype.float32))
    engine = create_lazy_engine(resolve_job(config))
    request = Request(1, STORY, max_new_tokens=8)
    (plain,) = complete_requests(engine, [request])
    for other in (PartialAnswers("another", ((5, 6),)), PartialAnswers(plain.prompt_sha256, ((5, 6), (7,)))):
        (again,) = complete_requests(engine, [replace(request, begun=other)])
        assert answer(again) == answer(plain)
    assert request.required_capabilities == replace(request, begun=other).required_capabilities - {
        Capability.continuing
    }
    engine.close()

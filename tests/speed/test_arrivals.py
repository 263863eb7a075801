"""Requests that arrive by a clock: their times, from when latency counts, and which rate is the
knee."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import mean, stdev

import pytest
from list_session import ListSession

from runner.config.measures import SweepConfig
from runner.config.root import RunnerConfig
from runner.engines.kinds.stub import StubEngine
from runner.speed.arrivals import (
    RequestLoad,
    TimedRequest,
    create_request_loads,
    draw_arrival_times,
    find_sustainable_request_rate,
    is_rate_sustained,
    run_requests_at_arrival_rate,
)
from runner.speed.tables import build_request_rate_table_rows
from runner_base.notes import note
from runner_base.result import Answer, FinishReason
from runner_engine.sessions.base import Capability, Completion, Event, Request
from runner_engine.sessions.session import Session

MakeConfig = Callable[..., RunnerConfig]


def test_arrivals_are_a_poisson_process_that_the_seed_fixes() -> None:
    times = draw_arrival_times(4.0, 20_000, seed=1)
    gaps = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    assert mean(gaps) == pytest.approx(1 / 4, rel=0.03)
    assert stdev(gaps) == pytest.approx(mean(gaps), rel=0.03), (
        "as spread as they are long: no regular interval"
    )
    assert draw_arrival_times(4.0, 50, seed=1) == times[:50]
    assert draw_arrival_times(4.0, 50, seed=2) != times[:50]
    assert draw_arrival_times(8.0, 50, seed=1) == pytest.approx([one / 2 for one in times[:50]])


def test_each_rate_has_its_own_prompts_of_the_cells_lengths() -> None:
    task = SweepConfig(prompt_tokens=[3, 5], new_tokens=[2, 4], arrival_rates=[2, 0.5], arrival_duration_s=20)
    slow, quick = create_request_loads(task, vocab_size=1000, seed=0)
    assert (slow.rate, len(slow.requests), quick.rate, len(quick.requests)) == (0.5, 10, 2, 40)
    assert {(len(one.request.prompt), one.request.max_new_tokens) for one in quick.requests} == {
        (3, 2),
        (3, 4),
        (5, 2),
        (5, 4),
    }
    prompts = [one.request.prompt for one in (*slow.requests, *quick.requests)]
    assert len(set(prompts)) == 50
    [few] = create_request_loads(SweepConfig(arrival_rates=[2], arrival_requests=3), vocab_size=1000, seed=0)
    assert len(few.requests) == 3


class OneByOne(StubEngine):
    """Answers one request after another, with a pause for each, like a busy server."""

    def __init__(self, config: RunnerConfig, pause: Callable[[], None]) -> None:
        super().__init__(config, 0.0)
        self.pause = pause

    def open(self, batch_size: int | None = None) -> Session:  # type: ignore[override]
        return ListSession(frozenset(Capability), self._run)

    def _run(self, asked: list[Request]) -> Iterator[list[Event]]:
        for request in asked:
            self.pause()
            yield [
                Completion(
                    Answer("", [1], FinishReason.length),
                    "",
                    1,
                    0.0,
                    request.id,
                    0.0,
                    token_times=[time.perf_counter()],
                )
            ]


def load_of(due_s: list[float], rate: float = 1.0) -> RequestLoad:
    return RequestLoad(
        rate, [TimedRequest(Request(at, (5,), max_new_tokens=1), due, 1) for at, due in enumerate(due_s)]
    )


def test_latency_counts_from_when_a_request_was_due(make_config: MakeConfig) -> None:
    """Ten requests within 10 ms, and 20 ms for each: the last one's latency includes its wait for
    all others."""
    load = load_of([at / 1000 for at in range(10)])
    answers: list[int] = []
    run_requests_at_arrival_rate(
        OneByOne(make_config(), lambda: time.sleep(0.02)), load, lambda: answers.append(1)
    )
    assert len(answers) == 10
    assert load.note == ""
    assert max(load.answer_times_s) >= 10 * 0.02 - 0.009
    assert load.answer_times_s == sorted(load.answer_times_s)
    assert all(
        first <= whole for first, whole in zip(load.first_token_times_s, load.answer_times_s, strict=True)
    )
    figures = load.metrics
    assert figures["answer_p99_s"] == max(load.answer_times_s)
    assert figures["answered_requests_per_s"] == pytest.approx(10 / load.seconds)


class StoppedClock:
    """Stands still until an engine's pause moves it, so that the machine's speed changes
    nothing."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def pause(self) -> None:
        self.now_s += 70.0


def test_requests_without_an_answer_count_when_patience_ends(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_clock = StoppedClock()
    monkeypatch.setattr("runner.speed.arrivals.time", stopped_clock)
    monkeypatch.setattr("runner.speed.arrivals.MIN_PATIENCE_S", 100.0)
    load = load_of([0.0, 0.0, 0.0, 0.001])
    run_requests_at_arrival_rate(OneByOne(make_config(), stopped_clock.pause), load, lambda: None)
    assert len(load.answered_requests) == 2
    assert load.note == note("unanswered", count=2, total=4, seconds=pytest.approx(140, abs=0.5))
    assert load.metrics["answer_p99_s"] >= 100, "no request is left out because it was slow"
    assert not is_rate_sustained(load, load)


def test_out_of_memory_becomes_a_note_and_other_errors_are_raised(make_config: MakeConfig) -> None:
    class Broken(OneByOne):
        error: Exception = MemoryError("no room")

        def _run(self, asked: list[Request]) -> Iterator[list[Event]]:
            if asked:
                raise self.error
            yield []

    load = load_of([0.0, 0.001])
    run_requests_at_arrival_rate(Broken(make_config(), lambda: None), load, lambda: None)
    assert (load.note, load.seconds) == (note("out_of_memory", reason="no room"), 0.0)
    Broken.error = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        run_requests_at_arrival_rate(Broken(make_config(), lambda: None), load_of([0.0]), lambda: None)


def answered_load(rate: float, took_s: float, until_s: float | None = None) -> RequestLoad:
    """A load of 40 requests that all take the same time, or whose last answer comes late."""
    load = load_of([at / rate for at in range(40)], rate)
    for one in load.requests:
        one.ended_s = one.due_s + took_s
    load.seconds = until_s or load.requests[-1].due_s + took_s
    return load


def test_the_knee_is_the_highest_rate_up_to_which_all_keep_up() -> None:
    good, slower, slow, good_again = (
        answered_load(1, 0.5),
        answered_load(2, 0.9),
        answered_load(4, 1.1),
        answered_load(8, 0.5),
    )
    knee = find_sustainable_request_rate([good, slower, slow, good_again])
    assert knee is not None
    assert (knee.rate, knee.is_highest) == (2, False)
    above = find_sustainable_request_rate([good, slower])
    assert above is not None
    assert (above.rate, above.is_highest) == (2, True)
    unmeasured = RequestLoad(0.5, note="out of memory")
    rows = build_request_rate_table_rows([unmeasured, good, slower], None)
    assert [row.get("keeps_up") for row in rows] == [None, "yes", "yes"]
    # 40 requests until the last one is due, and the half second that the lowest rate's answers take
    assert [row.get("offered") for row in rows] == [
        None,
        round(40 / (39 + 0.5), 3),
        round(40 / (39 / 2 + 0.5), 3),
    ]
    # 40 requests within 20 s: answers come at two thirds of their rate
    too_late = answered_load(2, 0.5, until_s=30.0)
    behind = find_sustainable_request_rate([good, too_late])
    assert behind is not None
    assert behind.rate == 1
    lost = answered_load(1, 0.5)
    lost.requests[3].ended_s = None
    none = find_sustainable_request_rate([lost, good])
    assert none is not None
    assert (none.rate, none.is_highest, none.lowest) == (None, False, 1)
    assert find_sustainable_request_rate([RequestLoad(1.0, note="out of memory")]) is None

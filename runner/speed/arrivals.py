"""Measures latency and throughput under requests that arrive at given times, whether or not earlier
ones are finished.

Latency counts from the time at which a request is due. So it includes the wait if the engine is
busy or this program is late, and no request is omitted because earlier ones were slow.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from statistics import median

from runner.config.measures import SweepConfig
from runner.speed.real_prompts import RealPrompts
from runner.speed.synthetic import create_random_requests
from runner_base import is_out_of_memory_error, to_one_line
from runner_base.notes import Note, note
from runner_base.spreads import compute_percentiles
from runner_engine import Completion, Engine, Request, Session

PATIENCE = 3  # after the last request, wait this many times the time of arrivals, and at least MIN_PATIENCE_S
MIN_PATIENCE_S = 10.0
LATENCY_FACTOR = 2.0  # at the knee, p95 of whole answers is at most this many times that of the lowest rate
KEEPS_UP = 0.9  # at the knee, answers come at this share of the requests' rate or more
DRAWS_PER_RATE = 1_000_000  # so that no two rates have the same prompts


@dataclass
class TimedRequest:
    """A request with its scheduled arrival and its measured times, in seconds from the start."""

    request: Request
    due_s: float
    new_tokens: int
    first_s: float | None = None  # when its first token came, if the engine reports it
    ended_s: float | None = None  # None: no answer yet


@dataclass
class RequestLoad:
    """All requests of one arrival rate, with their answer times."""

    rate: float
    requests: list[TimedRequest] = field(default_factory=list)
    seconds: float = 0.0  # until the last answer, or until patience ended
    # why there are no numbers, or not of all requests; text if an earlier start has kept it
    note: Note | str = ""

    @property
    def metric_suffix(self) -> str:
        """Suffix of this load's metric names, such as rate_2."""
        return f"rate_{self.rate:g}"

    @property
    def answered_requests(self) -> list[TimedRequest]:
        return [request for request in self.requests if request.ended_s is not None]

    @property
    def answer_times_s(self) -> list[float]:
        """Latency of each answer in seconds. An unanswered request counts until the end of the load."""
        return [
            (self.seconds if request.ended_s is None else request.ended_s) - request.due_s
            for request in self.requests
        ]

    @property
    def first_token_times_s(self) -> list[float]:
        """Seconds until each first token. Empty if the engine does not report these times."""
        if not any(request.first_s is not None for request in self.requests):
            return []
        return [
            (self.seconds if request.first_s is None else request.first_s) - request.due_s
            for request in self.requests
        ]

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of this arrival rate, such as latency percentiles and answers per second."""
        answered, tokens = (
            self.answered_requests,
            sum(request.new_tokens for request in self.answered_requests),
        )
        return {
            "requests": len(self.requests),
            "answered": len(answered),
            "offered_requests_per_s": self.compute_offered_rate(median(self.answer_times_s)),
            "answered_requests_per_s": len(answered) / self.seconds,
            "output_tok_per_s": tokens / self.seconds,
            **{
                f"ttft_{rank}_s": value
                for rank, value in compute_percentiles(self.first_token_times_s).items()
            },
            **{f"answer_{rank}_s": value for rank, value in compute_percentiles(self.answer_times_s).items()},
        }

    def compute_offered_rate(self, assumed_answer_time_s: float) -> float:
        return len(self.requests) / (self.requests[-1].due_s + assumed_answer_time_s)


def draw_arrival_times(rate: float, count: int, seed: int) -> list[float]:
    """Return random arrival times in seconds, with `rate` arrivals per second on average.

    All rates use the same random numbers, so that they differ only in their speed.
    """
    generator = random.Random(f"{seed}/arrivals")
    return list(accumulate(generator.expovariate(1.0) / rate for _ in range(count)))


def create_request_loads(
    task: SweepConfig, vocab_size: int, seed: int, real_prompts: RealPrompts | None = None
) -> list[RequestLoad]:
    """Return the requests of each arrival rate, lowest rate first. Prompt and answer lengths are random.

    Real prompts keep their order, and only their numbers of new tokens are random.
    """
    shapes = [(prompt, new) for prompt in task.prompt_tokens or [0] for new in task.new_tokens]
    loads = []
    for number, rate in enumerate(sorted(task.arrival_rates), start=1):
        load, lengths = RequestLoad(rate), random.Random(f"{seed}/lengths")
        count = task.arrival_requests or max(round(rate * task.arrival_duration_s), 2)
        for at, due_s in enumerate(draw_arrival_times(rate, count, seed)):
            prompt, new = lengths.choice(shapes)
            if real_prompts is not None:
                [request] = real_prompts.take_next_prompt_batch(1, new)
            else:
                [request] = create_random_requests(
                    1, prompt, new, vocab_size, seed, variant=number * DRAWS_PER_RATE + at
                )
            load.requests.append(TimedRequest(replace(request, id=at), due_s, new))
        loads.append(load)
    return loads


def run_requests_at_arrival_rate(
    engine: Engine, request_load: RequestLoad, on_answer: Callable[[], None]
) -> None:
    shortages_before = len(engine.stats.row_shortages)
    try:
        with engine.open() as session:
            _submit_requests_at_arrival_times(session, request_load, on_answer)
    except Exception as error:
        if not is_out_of_memory_error(error):
            raise
        request_load.note = note("out_of_memory", reason=to_one_line(error, 200))
    if shortages := engine.stats.row_shortages[shortages_before:]:
        request_load.note = note("fewer_rows", shortage=shortages[0])


def _submit_requests_at_arrival_times(
    session: Session, request_load: RequestLoad, on_answer: Callable[[], None]
) -> None:
    patience_s = request_load.requests[-1].due_s + max(
        PATIENCE * request_load.requests[-1].due_s, MIN_PATIENCE_S
    )
    started, enough = time.perf_counter(), threading.Event()
    problems: list[BaseException] = []

    def submit_when_due() -> None:
        """Submit each request at its arrival time, even during an engine step."""
        try:
            for timed in request_load.requests:
                if enough.wait(max(started + timed.due_s - time.perf_counter(), 0.0)):
                    return
                session.submit(timed.request)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that steps
            problems.append(error)

    thread = threading.Thread(target=submit_when_due, name="arrivals", daemon=True)
    thread.start()
    unanswered = len(request_load.requests)
    try:
        # not `gather`, which ends when nothing is under way: another request may be due later
        while unanswered and not problems and time.perf_counter() - started < patience_s:
            if not session.wait_for_requests(0.05):
                continue
            for event in session.step():
                if isinstance(event, Completion):
                    unanswered -= 1
                    _record_answer_times(request_load, event, started)
                    on_answer()
    finally:
        enough.set()
        thread.join()
    if problems:
        raise problems[0]
    request_load.seconds = time.perf_counter() - started
    if unanswered:
        total = len(request_load.requests)
        request_load.note = note("unanswered", count=unanswered, total=total, seconds=request_load.seconds)


def _record_answer_times(request_load: RequestLoad, answer: Completion, started: float) -> None:
    timed = request_load.requests[int(answer.id)]
    if answer.error:
        request_load.note = request_load.note or note("answer_failed", reason=to_one_line(answer.error, 200))
        return
    timed.ended_s = time.perf_counter() - started
    if answer.token_times:
        timed.first_s = answer.token_times[0] - started


@dataclass(frozen=True)
class SustainableRate:
    """Highest request rate that the engine sustains. `rate` is None if the engine sustains none of the
    measured rates.
    """

    rate: float | None
    is_highest: bool  # of all measured rates: then no knee was found
    lowest: float  # of all measured rates

    @property
    def note(self) -> Note:
        return note(
            "knee",
            rate=self.rate,
            is_highest=self.is_highest,
            lowest=self.lowest,
            latency_factor=LATENCY_FACTOR,
            answered_share=KEEPS_UP,
        )


def is_rate_sustained(request_load: RequestLoad, lowest_rate_load: RequestLoad) -> bool:
    """Return whether the p95 latency stays low and the engine answers as fast as requests arrive."""
    if len(request_load.answered_requests) < len(request_load.requests):
        return False
    allowed_s = LATENCY_FACTOR * compute_percentiles(lowest_rate_load.answer_times_s)["p95"]
    is_prompt = compute_percentiles(request_load.answer_times_s)["p95"] <= allowed_s
    return is_prompt and len(
        request_load.requests
    ) / request_load.seconds >= KEEPS_UP * estimate_offered_rate(request_load, lowest_rate_load)


def estimate_offered_rate(request_load: RequestLoad, lowest_rate_load: RequestLoad) -> float:
    return request_load.compute_offered_rate(median(lowest_rate_load.answer_times_s))


def find_sustainable_request_rate(loads: Sequence[RequestLoad]) -> SustainableRate | None:
    """Return the highest request rate that the engine sustains. None without measurements."""
    measured = [load for load in loads if load.seconds]
    if not measured:
        return None
    sustained: list[RequestLoad] = []
    for load in measured:
        if not is_rate_sustained(load, measured[0]):
            break
        sustained.append(load)
    rate = sustained[-1].rate if sustained else None
    return SustainableRate(rate, bool(sustained) and len(sustained) == len(loads), measured[0].rate)

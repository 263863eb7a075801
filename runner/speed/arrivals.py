"""Requests that arrive by a clock, whether or not earlier ones have ended: latency and throughput
under load.

Latency counts from the time at which a request is due. So it includes the wait if the engine is
busy or this program is late, and no request is left out because earlier ones were slow.
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
from runner.speed.synthetic import synthetic_requests
from runner_base import is_memory_error, one_line
from runner_base.notes import Note, note
from runner_base.spreads import percentiles
from runner_engine import Completion, Engine, Request, Session

PATIENCE = 3  # after the last request, wait this many times the time of arrivals, and at least MIN_PATIENCE_S
MIN_PATIENCE_S = 10.0
LATENCY_FACTOR = 2.0  # at the knee, p95 of whole answers is at most this many times that of the lowest rate
KEEPS_UP = 0.9  # at the knee, answers come at this share of the requests' rate or more
DRAWS_PER_RATE = 1_000_000  # so that no two rates have the same prompts


@dataclass
class TimedRequest:
    """A request of the clock, with times in seconds from the start."""

    request: Request
    due_s: float
    new_tokens: int
    first_s: float | None = None  # when its first token came, if the engine reports it
    ended_s: float | None = None  # None: no answer yet


@dataclass
class Load:
    """The requests of one rate, and their answers."""

    rate: float
    requests: list[TimedRequest] = field(default_factory=list)
    seconds: float = 0.0  # until the last answer, or until patience ended
    # why there are no numbers, or not of all requests; text if an earlier start has kept it
    note: Note | str = ""

    @property
    def key(self) -> str:
        """Its name in metrics."""
        return f"rate_{self.rate:g}"

    @property
    def answered(self) -> list[TimedRequest]:
        return [request for request in self.requests if request.ended_s is not None]

    @property
    def answers_s(self) -> list[float]:
        """The time of each whole answer; a request without one counts with the time that was waited
        for it."""
        return [
            (self.seconds if request.ended_s is None else request.ended_s) - request.due_s
            for request in self.requests
        ]

    @property
    def first_tokens_s(self) -> list[float]:
        """The time of each first token, in the same way; empty if the engine does not report it."""
        if not any(request.first_s is not None for request in self.requests):
            return []
        return [
            (self.seconds if request.first_s is None else request.first_s) - request.due_s
            for request in self.requests
        ]

    @property
    def figures(self) -> dict[str, float]:
        """The figures that the job reports."""
        answered, tokens = self.answered, sum(request.new_tokens for request in self.answered)
        return {
            "requests": len(self.requests),
            "answered": len(answered),
            "offered_requests_per_s": self.offered(median(self.answers_s)),
            "answered_requests_per_s": len(answered) / self.seconds,
            "output_tok_per_s": tokens / self.seconds,
            **{f"ttft_{rank}_s": value for rank, value in percentiles(self.first_tokens_s).items()},
            **{f"answer_{rank}_s": value for rank, value in percentiles(self.answers_s).items()},
        }

    def offered(self, usual_s: float) -> float:
        """Return the rate of answers, from the first request to the last answer, if each takes
        `usual_s`."""
        return len(self.requests) / (self.requests[-1].due_s + usual_s)


def clock(rate: float, count: int, seed: int) -> list[float]:
    """Return random arrival times in seconds, with so many a second on average.

    All rates use the same random numbers, so that they differ only in their speed.
    """
    generator = random.Random(f"{seed}/arrivals")
    return list(accumulate(generator.expovariate(1.0) / rate for _ in range(count)))


def loads_of(task: SweepConfig, vocab_size: int, seed: int, real: RealPrompts | None = None) -> list[Load]:
    """Return the requests of each rate, the lowest first; each request has a random one of the
    cells' lengths.

    Real prompts keep their order, and only their numbers of new tokens are random.
    """
    shapes = [(prompt, new) for prompt in task.prompt_tokens or [0] for new in task.new_tokens]
    loads = []
    for number, rate in enumerate(sorted(task.arrival_rates), start=1):
        load, lengths = Load(rate), random.Random(f"{seed}/lengths")
        count = task.arrival_requests or max(round(rate * task.arrival_s), 2)
        for at, due_s in enumerate(clock(rate, count, seed)):
            prompt, new = lengths.choice(shapes)
            if real is not None:
                [request] = real.take(1, new)
            else:
                [request] = synthetic_requests(
                    1, prompt, new, vocab_size, seed, draw=number * DRAWS_PER_RATE + at
                )
            load.requests.append(TimedRequest(replace(request, id=at), due_s, new))
        loads.append(load)
    return loads


def run_load(engine: Engine, load: Load, on_answer: Callable[[], None]) -> None:
    """Submit the requests of a rate at their times, and record the answers; an out-of-memory error
    becomes the note."""
    shortages_before = len(engine.stats.row_shortages)
    try:
        with engine.open() as session:
            _run(session, load, on_answer)
    except Exception as error:
        if not is_memory_error(error):
            raise
        load.note = note("out_of_memory", reason=one_line(error, 200))
    if shortages := engine.stats.row_shortages[shortages_before:]:
        load.note = note("fewer_rows", shortage=shortages[0])


def _run(session: Session, load: Load, on_answer: Callable[[], None]) -> None:
    patience_s = load.requests[-1].due_s + max(PATIENCE * load.requests[-1].due_s, MIN_PATIENCE_S)
    started, enough = time.perf_counter(), threading.Event()
    problems: list[BaseException] = []

    def submit() -> None:
        """Submit each request when it is due, also during a pass."""
        try:
            for timed in load.requests:
                if enough.wait(max(started + timed.due_s - time.perf_counter(), 0.0)):
                    return
                session.submit(timed.request)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that steps
            problems.append(error)

    thread = threading.Thread(target=submit, name="arrivals", daemon=True)
    thread.start()
    unanswered = len(load.requests)
    try:
        # not `gather`, which ends when nothing is under way: another request may be due later
        while unanswered and not problems and time.perf_counter() - started < patience_s:
            if not session.wait(0.05):
                continue
            for event in session.step():
                if isinstance(event, Completion):
                    unanswered -= 1
                    _record(load, event, started)
                    on_answer()
    finally:
        enough.set()
        thread.join()
    if problems:
        raise problems[0]
    load.seconds = time.perf_counter() - started
    if unanswered:
        total = len(load.requests)
        load.note = note("unanswered", count=unanswered, total=total, seconds=load.seconds)


def _record(load: Load, answer: Completion, started: float) -> None:
    """Record an answer; an error does not count as one."""
    timed = load.requests[int(answer.id)]
    if answer.error:
        load.note = load.note or note("answer_failed", reason=one_line(answer.error, 200))
        return
    timed.ended_s = time.perf_counter() - started
    if answer.token_times:
        timed.first_s = answer.token_times[0] - started


@dataclass(frozen=True)
class Knee:
    """The highest rate that the engine can keep up with; None if even the lowest is too high."""

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


def keeps_up(load: Load, lowest: Load) -> bool:
    """Whether a rate's p95 of whole answers stays near the lowest rate's, and answers keep the
    requests' rate."""
    if len(load.answered) < len(load.requests):
        return False
    allowed_s = LATENCY_FACTOR * percentiles(lowest.answers_s)["p95"]
    is_prompt = percentiles(load.answers_s)["p95"] <= allowed_s
    return is_prompt and len(load.requests) / load.seconds >= KEEPS_UP * offered_to(load, lowest)


def offered_to(load: Load, lowest: Load) -> float:
    """Return a rate as it was drawn, beside which `keeps_up` sees the rate of answers."""
    return load.offered(median(lowest.answers_s))


def knee_of(loads: Sequence[Load]) -> Knee | None:
    """Return the highest rate up to which the engine keeps up with every rate; None if nothing was
    measured."""
    measured = [load for load in loads if load.seconds]
    if not measured:
        return None
    sustained: list[Load] = []
    for load in measured:
        if not keeps_up(load, measured[0]):
            break
        sustained.append(load)
    rate = sustained[-1].rate if sustained else None
    return Knee(rate, bool(sustained) and len(sustained) == len(loads), measured[0].rate)

"""Requests that come by a clock, whether or not earlier ones have ended: latency and throughput under load.

Latency counts from the time at which a request was to come. One that had to wait, because the engine was busy or this
program was late, has waited; and no request is left out because earlier ones were slow.
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
from runner.core.errors import is_memory_error, one_line
from runner.core.stats import percentiles
from runner.engines.base import FEWER_ROWS, Completion, Engine, Request
from runner.engines.session import Session
from runner.engines.synthetic import synthetic_requests
from runner.speed.real_prompts import RealPrompts

PATIENCE = 3  # times as long as requests come, but this many seconds at least, the answers are waited for
LEAST_PATIENCE_S = 10.0
LATENCY_FACTOR = 2.0  # of the knee: its p95 of whole answers is at most so many times that of the lowest rate
KEEPS_UP = 0.9  # of the knee: the share of the requests' rate at which answers come
SEEDS_A_RATE = 1_000_000  # so that no two rates have the same prompts


@dataclass
class TimedRequest:
    """A request of the clock, in seconds from the beginning."""

    request: Request
    due_s: float
    new_tokens: int
    first_s: float | None = None  # when its first token came, where the engine tells
    ended_s: float | None = None  # None: no answer yet


@dataclass
class Load:
    """One rate, and what became of its requests."""

    rate: float
    asked: list[TimedRequest] = field(default_factory=list)
    seconds: float = 0.0  # until the last answer, or until nobody waited any longer
    note: str = ""  # why there are no numbers, or not of all

    @property
    def key(self) -> str:
        """Its name in metrics."""
        return f"rate_{self.rate:g}"

    @property
    def answered(self) -> list[TimedRequest]:
        """Those that have an answer."""
        return [one for one in self.asked if one.ended_s is not None]

    @property
    def answers_s(self) -> list[float]:
        """How long each whole answer took; what was given up has taken as long as was waited at least."""
        return [(self.seconds if one.ended_s is None else one.ended_s) - one.due_s for one in self.asked]

    @property
    def firsts_s(self) -> list[float]:
        """How long each first token took, in the same way; empty where an engine does not tell."""
        if not any(one.first_s is not None for one in self.asked):
            return []
        return [(self.seconds if one.first_s is None else one.first_s) - one.due_s for one in self.asked]

    @property
    def figures(self) -> dict[str, float]:
        """What the job reports of it."""
        answered, tokens = self.answered, sum(one.new_tokens for one in self.answered)
        return {
            "requests": len(self.asked),
            "answered": len(answered),
            "offered_requests_per_s": self.offered(median(self.answers_s)),
            "answered_requests_per_s": len(answered) / self.seconds,
            "output_tok_per_s": tokens / self.seconds,
            **{f"ttft_{rank}_s": value for rank, value in percentiles(self.firsts_s).items()},
            **{f"answer_{rank}_s": value for rank, value in percentiles(self.answers_s).items()},
        }

    def offered(self, usual_s: float) -> float:
        """Return at which rate answers come that all take `usual_s`, from the first request to the last answer."""
        return len(self.asked) / (self.asked[-1].due_s + usual_s)


def clock(rate: float, count: int, seed: int) -> list[float]:
    """Return when requests come, in seconds: with chances of their own, so many a second on average.

    Other rates have the same chances, so that they differ in nothing but how quickly these come.
    """
    chances = random.Random(f"{seed}/arrivals")
    return list(accumulate(chances.expovariate(1.0) / rate for _ in range(count)))


def loads_of(task: SweepConfig, vocab_size: int, seed: int, real: RealPrompts | None = None) -> list[Load]:
    """Return the requests of each rate, the lowest first; each has one of the cells' lengths, drawn by chance.

    Real prompts come in their order, and only their numbers of new tokens are drawn.
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
                [request] = synthetic_requests(1, prompt, new, vocab_size, seed, draw=number * SEEDS_A_RATE + at)
            load.asked.append(TimedRequest(replace(request, id=at), due_s, new))
        loads.append(load)
    return loads


def run_load(engine: Engine, load: Load, on_answer: Callable[[], None]) -> None:
    """Let the requests of a rate come, and note when their answers do; memory that runs out becomes the note."""
    said = len(engine.stats.notes)
    try:
        with engine.open() as session:
            _run(session, load, on_answer)
    except Exception as error:
        if not is_memory_error(error):
            raise
        load.note = f"out of memory: {one_line(error, 200)}"
    load.note = next((note for note in engine.stats.notes[said:] if note.startswith(FEWER_ROWS)), load.note)


def _run(session: Session, load: Load, on_answer: Callable[[], None]) -> None:
    patience_s = load.asked[-1].due_s + max(PATIENCE * load.asked[-1].due_s, LEAST_PATIENCE_S)
    started, enough = time.perf_counter(), threading.Event()
    problems: list[BaseException] = []

    def submit() -> None:
        """Hand in each request when it is due; a pass that is under way need not have ended."""
        try:
            for one in load.asked:
                if enough.wait(max(started + one.due_s - time.perf_counter(), 0.0)):
                    return
                session.submit(one.request)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that steps
            problems.append(error)

    thread = threading.Thread(target=submit, name="arrivals", daemon=True)
    thread.start()
    left = len(load.asked)
    try:
        # no `gather`, which ends when nothing is under way: another request may be due later
        while left and not problems and time.perf_counter() - started < patience_s:
            if not session.wait(0.05):
                continue
            for event in session.step():
                if isinstance(event, Completion):
                    left -= 1
                    _note(load, event, started)
                    on_answer()
    finally:
        enough.set()
        thread.join()
    if problems:
        raise problems[0]
    load.seconds = time.perf_counter() - started
    if left:
        load.note = f"{left} of {len(load.asked)} requests had no answer after {load.seconds:.0f} s"


def _note(load: Load, answer: Completion, started: float) -> None:
    """Note an answer; an error is none."""
    one = load.asked[int(answer.id)]
    if answer.error:
        load.note = load.note or f"an error: {one_line(answer.error, 200)}"
        return
    one.ended_s = time.perf_counter() - started
    if answer.token_times:
        one.first_s = answer.token_times[0] - started


@dataclass(frozen=True)
class Knee:
    """The highest rate that the engine keeps up with; None where even the lowest one is too much."""

    rate: float | None
    is_highest: bool  # of all that were tried: it may lie further up
    words: str


def keeps_up(load: Load, lowest: Load) -> bool:
    """Whether a rate's p95 of whole answers stays near the lowest rate's, and answers come as quickly as requests."""
    if len(load.answered) < len(load.asked):
        return False
    usual_s, allowed_s = median(lowest.answers_s), LATENCY_FACTOR * percentiles(lowest.answers_s)["p95"]
    is_prompt = percentiles(load.answers_s)["p95"] <= allowed_s
    return is_prompt and len(load.asked) / load.seconds >= KEEPS_UP * load.offered(usual_s)


def knee_of(loads: Sequence[Load]) -> Knee | None:
    """Return the highest rate up to which every rate keeps up; None where nothing was measured."""
    measured = [load for load in loads if load.seconds]
    if not measured:
        return None
    rule = (
        f"p95 of whole answers within {LATENCY_FACTOR:g} × that of the lowest rate, and answers at {KEEPS_UP:.0%} of "
    )
    rule += "the requests' rate or more"
    kept: list[Load] = []
    for load in measured:
        if not keeps_up(load, measured[0]):
            break
        kept.append(load)
    if not kept:
        words = f"no knee: even {measured[0].rate:g} requests/s are more than it keeps up with ({rule})"
        return Knee(None, False, words)
    rate = kept[-1].rate
    if len(kept) == len(loads):
        return Knee(
            rate, True, f"the knee lies at {rate:g} requests/s or above, the highest rate that was tried: {rule}"
        )
    return Knee(rate, False, f"the knee: {rate:g} requests/s is the highest rate that it keeps up with: {rule}")

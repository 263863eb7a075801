"""task.exact=true: a model and its reference side by side, compared by whole distributions. No task itself.

An engine over two engines. The reference reads a lot of texts first, and its distributions wait in memory for those of
this model, which are compared as they come. Only so many wait at a time (`waiting_places`), so both read a text anew
for what is left of it: a large vocabulary costs time and never more memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from runner.checkpoints.pass_memory import shape_of, waiting_places
from runner.checkpoints.resolve import resolve
from runner.config.likelihood import LikelihoodConfig
from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError
from runner.core.loaded import lines
from runner.engines import open_engine
from runner.engines.arithmetic import Arithmetic
from runner.engines.base import (
    Capability,
    Completion,
    EngineReport,
    Event,
    Prompt,
    Request,
    RequestId,
    gather,
    require_among,
)
from runner.engines.kinds import kind_of
from runner.engines.session import Session
from runner.engines.stats import EngineStats
from runner.scorers.divergence import Divergence, diverge_whole
from runner.tasks.base import Context, own_config
from runner.tasks.likelihood.reference import KEY
from runner.tasks.named_job import MODEL_GROUPS, is_id, overridden

EXACT = "task.exact=true"
EXACT_HASH = "exact"  # its name among the hashes
TEXTS_AT_ONCE = 64  # so that samples are written down now and then
NOTHING = Divergence(0.0, 0.0, 0)


def second_of(config: RunnerConfig) -> RunnerConfig:
    """Return the config of the reference that is loaded beside a job's model; ConfigError where it cannot be."""
    task = own_config(config, LikelihoodConfig)
    words = task.reference or ""
    if is_id(words, task):
        raise ConfigError(
            f"{KEY}={words} names a job, and {EXACT} loads the reference itself: give the overrides that make it, such "
            "as quantization=none, or leave task.exact out"
        )
    other = overridden(config, KEY, words, MODEL_GROUPS)
    for what, it in ((EXACT, config), (f"{KEY}={words} with {EXACT}", other)):
        require_among(kind_of(it.model).capabilities(it), what, {Capability.distributions})
    ours, theirs = (shape_of(resolve(it).text_settings)["vocab"] for it in (config, other))
    check_vocabularies(words, ours, theirs)
    return other


def check_vocabularies(words: str, ours: int, theirs: int) -> None:
    """Raise ConfigError where distributions are over other tokens."""
    if ours != theirs:
        raise ConfigError(
            f"{KEY}={words}: its vocabulary has {theirs:,} tokens and this model's {ours:,}, so whole distributions "
            "cannot be compared: leave task.exact out, and its most probable tokens are"
        )


@dataclass
class Waiting:
    """The reference's distributions in some places of a text, from `begin` on and `most` of them at most."""

    begin: int
    most: int
    count: int = 0
    rows: Any = None  # a tensor [most, V]

    def hear(self, first: int, scores: Any) -> None:
        """Keep what belongs here of the distributions from a place on."""
        if first == 0:
            self.count = 0
        begin, end = self.within(first, len(scores), self.most)
        if begin < end:
            if self.rows is None:
                self.rows = scores.new_empty(self.most, scores.shape[-1])
            at = first + begin - self.begin
            self.rows[at : at + end - begin] = scores[begin:end]
            self.count = at + end - begin

    def within(self, first: int, count: int, most: int) -> tuple[int, int]:
        """Return which of so many distributions from a place on are among the first `most` of these places."""
        return max(self.begin - first, 0), min(self.begin + most - first, count)


@dataclass
class TextProgress:
    """A text on its way: how far it has been compared, and what came of that."""

    request: Request
    size: int  # places; until the text has been read, nearly
    at: int = 0
    far: Divergence = NOTHING
    completion: Completion | None = None  # of this model, which has scored all of it at the first time
    waiting: Waiting = field(default_factory=lambda: Waiting(0, 0))
    lately: Divergence = NOTHING  # since this model began to read it for the last time

    def hear(self, words: str, first: int, scores: Any) -> None:
        """Compare this model's distributions with those that wait."""
        if first == 0:
            self.lately = NOTHING
        begin, end = self.waiting.within(first, len(scores), self.waiting.count)
        if begin < end:
            at = first + begin - self.waiting.begin
            theirs = self.waiting.rows[at : at + end - begin]
            check_vocabularies(words, scores.shape[-1], theirs.shape[-1])
            self.lately += diverge_whole(theirs, scores[begin:end].to(theirs.device))

    def go_on(self, completion: Completion) -> None:
        """Take in what has been compared now."""
        self.completion = self.completion or completion
        self.far, self.at, self.size = self.far + self.lately, self.at + self.waiting.count, len(completion.token_ids)


class SideBySide:
    """This model's engine for who scores with it; each text is compared with the reference on the way."""

    def __init__(self, context: Context, words: str, sizes: Mapping[RequestId, int]) -> None:
        assert context.resolved.second is not None
        config, resolved = context.resolved.second
        self.own = context.engine
        self.reference = open_engine(config, resolved, folder=context.recorder.folder)
        self.words, self.sizes = words, sizes
        self.capabilities = self.own.capabilities
        self.reports: list[EngineReport] = []  # of this model and of its reference, once they are loaded
        self._far: dict[RequestId, Divergence] = {}

    @property
    def stats(self) -> EngineStats:
        """Totals of this model alone."""
        return self.own.stats

    def load(self) -> EngineReport:
        """Load both, this model first; what is reported is this model's."""
        own, theirs = self.reports = [self.own.load(), self.reference.load()]
        loaded = lines(theirs.metrics, theirs.facts).get("loaded", "")
        notes = [
            "two models were loaded side by side: peak_rss_mib is of both, all other figures are of this model alone",
            *(f"the reference: {note}" for note in theirs.notes),
        ]
        facts = {"reference": f"{self.words} · side by side, {loaded}"}
        return replace(own, facts=own.facts | facts, notes=own.notes + notes)

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Pass the question on."""
        return self.own.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        """Pass the question on."""
        return self.own.decode(ids)

    def open(self, batch_size: int | None = None) -> SideBySideSession:
        """Open a session of both."""
        return SideBySideSession(self, batch_size)

    def arithmetic(self) -> Arithmetic | None:
        """Pass the question on."""
        return self.own.arithmetic()

    def close(self) -> None:
        """Let go of both."""
        self.reference.close()
        self.own.close()

    def compared(self, course: TextProgress) -> None:
        """Keep how far a text is from the reference until it is asked for."""
        self._far[course.request.id] = course.far

    def divergence(self, completion: Completion) -> Divergence:
        """Return how far this model is from the reference over a text that has been scored, once."""
        return self._far.pop(completion.id)


class SideBySideSession(Session):
    """Each step takes a lot of texts through the reference and then through this model."""

    def __init__(self, engine: SideBySide, batch_size: int | None) -> None:
        super().__init__(engine.capabilities)
        self.engine = engine
        self.own, self.reference = engine.own.open(batch_size), engine.reference.open(batch_size)
        self.places = waiting_places(int(engine.own.load().metrics["vocab_size"]))
        self.courses: deque[TextProgress] = deque()

    def _admit(self, request: Request) -> TextProgress:
        return TextProgress(request, self.engine.sizes[request.id])

    def _advance(self, arrived: list[TextProgress], cancelled: set[RequestId]) -> list[Event]:
        self.courses.extend(arrived)
        ended = [course.request for course in self.courses if course.request.id in cancelled]
        self.courses = deque(course for course in self.courses if course.request.id not in cancelled)
        events: list[Event] = [*_asked(self.own, ended, is_cancelled=True).values()]
        lot = self._lot()
        theirs = _asked(self.reference, [replace(it.request, top=0, hear=it.waiting.hear) for it in lot])
        failed = {name for name, completion in theirs.items() if completion.error is not None}
        events += [replace(theirs[name], error=f"the reference: {theirs[name].error}") for name in failed]
        lot = [course for course in lot if course.request.id not in failed]
        words = self.engine.words
        ours = _asked(self.own, [replace(it.request, hear=partial(it.hear, words)) for it in lot])
        unfinished = []
        for course in lot:
            mine, other = ours[course.request.id], theirs[course.request.id]
            if mine.error is not None:
                events.append(mine)
                continue
            if (mine.prompt_sha256, mine.token_ids) != (other.prompt_sha256, other.token_ids):
                raise _other_tokens(words, course.request.id)
            course.go_on(mine)
            if course.at < course.size:
                unfinished.append(course)
                continue
            self.engine.compared(course)
            events.append(course.completion or mine)
        self.courses.extendleft(reversed(unfinished))
        return events

    def _drop(self) -> None:
        self.courses.clear()
        self.own.close()
        self.reference.close()

    def _lot(self) -> list[TextProgress]:
        """Take the texts whose distributions may wait together; of a longer one, what there is room for."""
        lot: list[TextProgress] = []
        room = self.places
        while self.courses and room > 0 and len(lot) < TEXTS_AT_ONCE:
            course = self.courses[0]
            left = max(course.size - course.at, 1)
            if lot and left > room:
                break
            course.waiting = Waiting(course.at, min(left, room))
            room -= left
            lot.append(self.courses.popleft())
        return lot


def _asked(session: Session, requests: Iterable[Request], is_cancelled: bool = False) -> dict[RequestId, Completion]:
    """Return what becomes of requests that have a session to themselves."""
    for request in requests:
        session.submit(request)
        if is_cancelled:
            session.cancel(request.id)
    found: dict[RequestId, Completion] = {}

    def listen(events: list[Event]) -> None:
        found.update((event.id, event) for event in events if isinstance(event, Completion))

    gather(session, [], listen)
    return found


def token_counts(
    requests: Sequence[Request], texts: Sequence[str], context: Context, words: str
) -> dict[RequestId, int]:
    """Return how many tokens each continuation has, but for one that begins a text.

    ConfigError where the two models would not read the same tokens; only their tokenizers are loaded for that.
    """
    assert context.resolved.second is not None
    given = [one.continuation or "" for one in requests]
    shown: list[Prompt] = [*(one.prompt for one in requests), *given, *texts]
    ours, theirs = (
        kind_of(config.model).encoded(config, resolved, shown)
        for config, resolved in ((context.config, context.resolved), context.resolved.second)
    )
    other = next((at for at, (mine, its) in enumerate(zip(ours, theirs, strict=True)) if mine != its), None)
    if other is not None:
        raise _other_tokens(words, other % len(requests) if other < 2 * len(requests) else other - 2 * len(requests))
    counts = (len(ids) for _, ids in ours[len(requests) : 2 * len(requests)])
    return {request.id: count for request, count in zip(requests, counts, strict=True)}


def _other_tokens(words: str, index: RequestId) -> ConfigError:
    return ConfigError(
        f"{KEY}={words}: the reference reads text {index} as other tokens, or behind another prompt: the two models "
        "cannot be compared token by token"
    )

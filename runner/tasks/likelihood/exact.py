"""task.exact=true: a model and its reference side by side, compared by whole distributions. Not a
task.

An engine over two engines. The reference reads a batch of texts first, and its distributions wait
in memory; this model's are compared with them as they come. The memory holds a fixed number
(`waiting_places`). If a text has more, both models read it again for the rest: a large vocabulary
costs time, but no more memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from runner.scorers import Divergence, diverge_whole
from runner.tasks import Context, RunnerConfig, kind_of, open_engine, own_config, resolve
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner.tasks.likelihood.reference import KEY
from runner.tasks.named_job import SCORING, is_id, overridden
from runner_base import ConfigError
from runner_base.notes import given
from runner_engine import (
    Arithmetic,
    Capability,
    Completion,
    EngineReport,
    EngineStats,
    Event,
    Prompt,
    Request,
    RequestId,
    Session,
    gather,
    require,
)
from runner_engine.checkpoints import waiting_places
from runner_engine.models.loaded_lines import lines
from runner_engine.render.notes import render

EXACT = "task.exact=true"
EXACT_HASH = "exact"  # its name among the hashes
TEXTS_AT_ONCE = 64  # so that samples are written regularly
NOTHING = Divergence(0.0, 0.0, 0)


def second_of(config: RunnerConfig) -> RunnerConfig:
    """Return the config of the reference that is loaded beside a job's model; ConfigError if that
    is impossible."""
    task = own_config(config, LikelihoodConfig)
    named = task.reference or ""
    if is_id(named, task):
        raise ConfigError(
            f"{KEY}={named} names a job, and {EXACT} loads the reference itself: give overrides, such "
            "as quantization=none, or leave task.exact out",
            code="conflict",
        )
    other = overridden(config, KEY, named, SCORING)
    for what, each in ((EXACT, config), (f"{KEY}={named} with {EXACT}", other)):
        require(kind_of(each.model).capabilities(each), what, {Capability.distributions})
    vocabulary, reference_vocabulary = (resolve(each).model.files.shape["vocab"] for each in (config, other))
    check_vocabularies(named, vocabulary, reference_vocabulary)
    return other


def check_vocabularies(named: str, vocabulary: int, reference_vocabulary: int) -> None:
    """Raise ConfigError if the two vocabularies differ in size."""
    if vocabulary != reference_vocabulary:
        raise ConfigError(
            f"its vocabulary has {reference_vocabulary:,} tokens and this model's "
            f"{vocabulary:,}, so whole distributions cannot be compared: leave task.exact out to "
            "compare the most probable tokens",
            key=KEY,
            value=named,
            code="mismatch",
        )


@dataclass
class Waiting:
    """The reference's distributions for at most `most` positions of a text, from `begin` on."""

    begin: int
    most: int
    count: int = 0
    rows: Any = None  # a tensor [most, V]

    def hear(self, first: int, scores: Any) -> None:
        """Keep those of the distributions, which begin at position `first`, that belong here."""
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
        """Return which of `count` distributions from position `first` on are among the first `most`
        ones here."""
        return max(self.begin - first, 0), min(self.begin + most - first, count)


@dataclass
class TextProgress:
    """A text that is being compared: how far, and with which divergence."""

    request: Request
    size: int  # positions; an estimate until the text has been read
    at: int = 0
    divergence: Divergence = NOTHING  # of the positions before `at`
    completion: Completion | None = None  # of this model, from the first reading
    reference: Sequence[float] = ()  # the reference's log-probabilities of the text's tokens
    waiting: Waiting = field(default_factory=lambda: Waiting(0, 0))
    latest: Divergence = NOTHING  # of the current reading

    def hear(self, named: str, first: int, scores: Any) -> None:
        """Compare this model's distributions with those that wait."""
        if first == 0:
            self.latest = NOTHING
        begin, end = self.waiting.within(first, len(scores), self.waiting.count)
        if begin < end:
            at = first + begin - self.waiting.begin
            reference_rows = self.waiting.rows[at : at + end - begin]
            check_vocabularies(named, scores.shape[-1], reference_rows.shape[-1])
            self.latest += diverge_whole(reference_rows, scores[begin:end].to(reference_rows.device))

    def advance(self, completion: Completion, reference: Completion) -> None:
        """Add the positions that have been compared in the current reading of both."""
        self.completion, self.reference = self.completion or completion, reference.logprobs or []
        self.divergence += self.latest
        self.at, self.size = self.at + self.waiting.count, len(completion.answer.token_ids)


class SideBySide:
    """Replaces this model's engine; each text that it scores is compared with the reference."""

    def __init__(self, context: Context, named: str, sizes: Mapping[RequestId, int]) -> None:
        assert context.resolved.second is not None
        self.own = context.engine
        self.reference = open_engine(context.resolved.second, folder=context.recorder.folder)
        self.named, self.sizes = named, sizes
        self.capabilities = self.own.capabilities
        self.reports: list[EngineReport] = []  # of this model and of its reference, once they are loaded
        self._divergences: dict[RequestId, TextProgress] = {}

    @property
    def stats(self) -> EngineStats:
        """Totals of this model alone."""
        return self.own.stats

    def load(self) -> EngineReport:
        """Load both, this model first; return this model's report."""
        own, reference = self.reports = [self.own.load(), self.reference.load()]
        loaded = lines(reference.metrics, reference.facts).get("loaded", "")
        notes = [
            given(
                "two models were loaded side by side: peak_rss_mib is of both, all other figures are of this model "
                "alone"
            ),
            *(given(f"the reference: {render(note)}") for note in reference.notes),
        ]
        facts = {"reference": f"{self.named} · side by side, {loaded}"}
        return replace(own, facts=own.facts | facts, notes=own.notes + notes)

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Encode with this model."""
        return self.own.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode with this model."""
        return self.own.decode(ids)

    def open(self, batch_size: int | None = None) -> SideBySideSession:
        """Open a session of both."""
        return SideBySideSession(self, batch_size)

    def arithmetic(self) -> Arithmetic | None:
        """Return this model's arithmetic."""
        return self.own.arithmetic()

    def close(self) -> None:
        """Close both engines."""
        self.reference.close()
        self.own.close()

    def keep(self, course: TextProgress) -> None:
        """Keep the divergence of a text until it is asked for."""
        course.waiting = Waiting(0, 0)  # frees its distributions
        self._divergences[course.request.id] = course

    def divergence(self, completion: Completion) -> Divergence:
        """Return the divergence from the reference over a text that has been scored."""
        return self._divergences[completion.id].divergence

    def logprobs(self, index: int) -> Sequence[float]:
        """Return the log-probabilities of such a text's tokens under the reference, and forget the
        text."""
        return self._divergences.pop(index).reference


class SideBySideSession(Session):
    """Each step takes a batch of texts through the reference and then through this model."""

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
        events: list[Event] = [*_completed(self.own, ended, is_cancelled=True).values()]
        batch = self._next_batch()
        reference_completions = _completed(
            self.reference,
            [
                replace(course.request, top_logprobs=0, drawn_tokens=0, on_logprobs=course.waiting.hear)
                for course in batch
            ],
        )
        failed = {name for name, completion in reference_completions.items() if completion.error is not None}
        events += [
            replace(reference_completions[name], error=f"the reference: {reference_completions[name].error}")
            for name in failed
        ]
        batch = [course for course in batch if course.request.id not in failed]
        named = self.engine.named
        completions = _completed(
            self.own, [replace(course.request, on_logprobs=partial(course.hear, named)) for course in batch]
        )
        unfinished = []
        for course in batch:
            own, other = completions[course.request.id], reference_completions[course.request.id]
            if own.error is not None:
                events.append(own)
                continue
            if (own.prompt_sha256, own.answer.token_ids) != (other.prompt_sha256, other.answer.token_ids):
                raise _other_tokens(named, course.request.id)
            course.advance(own, other)
            if course.at < course.size:
                unfinished.append(course)
                continue
            self.engine.keep(course)
            events.append(course.completion or own)
        self.courses.extendleft(reversed(unfinished))
        return events

    def _drop(self) -> None:
        self.courses.clear()
        self.own.close()
        self.reference.close()

    def _next_batch(self) -> list[TextProgress]:
        """Take the texts whose distributions fit into memory together; of a longer one, as much as
        fits."""
        batch: list[TextProgress] = []
        room = self.places
        while self.courses and room > 0 and len(batch) < TEXTS_AT_ONCE:
            course = self.courses[0]
            left = max(course.size - course.at, 1)
            if batch and left > room:
                break
            course.waiting = Waiting(course.at, min(left, room))
            room -= left
            batch.append(self.courses.popleft())
        return batch


def _completed(
    session: Session, requests: Iterable[Request], is_cancelled: bool = False
) -> dict[RequestId, Completion]:
    """Return the completions of requests that have a session to themselves."""
    for request in requests:
        session.submit(request)
        if is_cancelled:
            session.cancel(request.id)
    completions: dict[RequestId, Completion] = {}

    def listen(events: list[Event]) -> None:
        completions.update((event.id, event) for event in events if isinstance(event, Completion))

    gather(session, [], listen)
    return completions


def token_counts(
    requests: Sequence[Request], texts: Sequence[str], context: Context, named: str
) -> dict[RequestId, int]:
    """Return how many tokens each continuation has; of one that begins a text, an estimate.

    ConfigError if the two models would not read the same tokens; only their tokenizers are loaded
    for this.
    """
    assert context.resolved.second is not None
    continuations = [request.continuation or "" for request in requests]
    everything: list[Prompt] = [*(request.prompt for request in requests), *continuations, *texts]
    encoded, reference_encoded = (
        kind_of(resolved.config.model).encoded(resolved, everything)
        for resolved in (context.resolved, context.resolved.second)
    )
    differing = next(
        (
            at
            for at, (own_ids, reference_ids) in enumerate(zip(encoded, reference_encoded, strict=True))
            if own_ids != reference_ids
        ),
        None,
    )
    if differing is not None:
        is_text = differing >= 2 * len(requests)
        raise _other_tokens(named, differing - 2 * len(requests) if is_text else differing % len(requests))
    counts = (len(ids) for _, ids in encoded[len(requests) : 2 * len(requests)])
    return {request.id: count for request, count in zip(requests, counts, strict=True)}


def _other_tokens(named: str, index: RequestId) -> ConfigError:
    return ConfigError(
        f"the reference reads text {index} as other tokens, or after another prompt: the two models "
        "cannot be compared token by token",
        key=KEY,
        value=named,
        code="mismatch",
    )

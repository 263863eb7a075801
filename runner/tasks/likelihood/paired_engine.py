"""Implements task.exact=true: compares full next-token distributions of a model and a reference model.

An engine on top of two engines. The reference scores a batch of documents first, and its
distributions stay in memory; this model's distributions are compared on arrival. The memory
holds a fixed number of positions (`waiting_places`). For a longer document, both models read it
again for the rest: a large vocabulary costs time, but no more memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from runner.scorers import Divergence, compute_exact_divergence
from runner.tasks import (
    RunnerConfig,
    TaskContext,
    create_lazy_engine,
    get_model_kind,
    resolve_job,
    typed_task_config,
)
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner.tasks.likelihood.reference import KEY
from runner.tasks.named_job import SCORING, apply_overrides_from_text, is_job_id
from runner_base import ConfigError
from runner_base.notes import text_note
from runner_engine import (
    Capability,
    Completion,
    EngineReport,
    EngineStats,
    Event,
    ModelArithmetic,
    Prompt,
    Request,
    RequestId,
    Session,
    require_capabilities,
    run_requests,
)
from runner_engine.checkpoints import compute_max_queued_distributions
from runner_engine.models.load_summary import summarize_load
from runner_engine.render.notes import render_engine_note

EXACT = "task.exact=true"
EXACT_HASH = "exact"  # its name among the hashes
TEXTS_AT_ONCE = 64  # so that samples are written regularly
NOTHING = Divergence(0.0, 0.0, 0)


def build_reference_model_config(config: RunnerConfig) -> RunnerConfig:
    """Return the config of the reference model that is loaded next to the job's model.

    Raises ConfigError if the two models cannot run together.
    """
    task = typed_task_config(config, LikelihoodConfig)
    named = task.reference or ""
    if is_job_id(named, task):
        raise ConfigError(
            (
                f"{KEY}={named} names a job, but {EXACT} loads a reference model. Give "
                "overrides such as quantization=none, or omit task.exact"
            ),
            code="conflict",
        )
    other = apply_overrides_from_text(config, KEY, named, SCORING)
    for what, each in ((EXACT, config), (f"{KEY}={named} with {EXACT}", other)):
        require_capabilities(get_model_kind(each.model).capabilities(each), what, {Capability.distributions})
    vocabulary, reference_vocabulary = (
        resolve_job(each).model.files.shape["vocab"] for each in (config, other)
    )
    check_vocab_sizes(named, vocabulary, reference_vocabulary)
    return other


def check_vocab_sizes(reference_name: str, vocab_size: int, reference_vocab_size: int) -> None:
    """Raise ConfigError if the vocabularies of model and reference differ in size."""
    if vocab_size != reference_vocab_size:
        raise ConfigError(
            (
                f"the reference has {reference_vocab_size:,} tokens in its vocabulary and this model "
                f"{vocab_size:,}, so whole distributions cannot be compared. Omit task.exact to "
                "compare the most probable tokens"
            ),
            key=KEY,
            value=reference_name,
            code="mismatch",
        )


@dataclass
class ReferenceDistributions:
    """Next-token distributions of the reference model for consecutive positions of a document."""

    begin: int
    most: int
    count: int = 0
    rows: Any = None  # a tensor [most, V]

    def store_reference_distributions(self, first_position: int, distributions: Any) -> None:
        if first_position == 0:
            self.count = 0
        begin, end = self.clip_to_positions(first_position, len(distributions), self.most)
        if begin < end:
            if self.rows is None:
                self.rows = distributions.new_empty(self.most, distributions.shape[-1])
            at = first_position + begin - self.begin
            self.rows[at : at + end - begin] = distributions[begin:end]
            self.count = at + end - begin

    def clip_to_positions(
        self, first_position: int, num_distributions: int, max_positions: int
    ) -> tuple[int, int]:
        return max(self.begin - first_position, 0), min(
            self.begin + max_positions - first_position, num_distributions
        )


@dataclass
class DocumentProgress:
    """Progress of a document's comparison: the next position, and the divergence summed over earlier
    positions.
    """

    request: Request
    size: int  # positions; an estimate until the text has been read
    at: int = 0
    divergence: Divergence = NOTHING  # of the positions before `at`
    completion: Completion | None = None  # of this model, from the first reading
    reference: Sequence[float] = ()  # the reference's log-probabilities of the text's tokens
    waiting: ReferenceDistributions = field(default_factory=lambda: ReferenceDistributions(0, 0))
    latest: Divergence = NOTHING  # of the current reading

    def compare_with_reference(self, reference_name: str, first_position: int, distributions: Any) -> None:
        if first_position == 0:
            self.latest = NOTHING
        begin, end = self.waiting.clip_to_positions(first_position, len(distributions), self.waiting.count)
        if begin < end:
            at = first_position + begin - self.waiting.begin
            reference_rows = self.waiting.rows[at : at + end - begin]
            check_vocab_sizes(reference_name, distributions.shape[-1], reference_rows.shape[-1])
            self.latest += compute_exact_divergence(
                reference_rows, distributions[begin:end].to(reference_rows.device)
            )

    def add_scoring_pass_results(self, completion: Completion, reference_completion: Completion) -> None:
        self.completion, self.reference = self.completion or completion, reference_completion.logprobs or []
        self.divergence += self.latest
        self.at, self.size = self.at + self.waiting.count, len(completion.answer.token_ids)


class PairedEngine:
    """Engine that runs a model together with a reference model, and compares their distributions on each
    document.
    """

    def __init__(
        self, context: TaskContext, reference_name: str, num_positions: Mapping[RequestId, int]
    ) -> None:
        assert context.resolved.second is not None
        self.own = context.engine
        self.reference = create_lazy_engine(context.resolved.second, folder=context.recorder.folder)
        self.named, self.sizes = reference_name, num_positions
        self.capabilities = self.own.capabilities
        self.reports: list[EngineReport] = []  # of this model and of its reference, once they are loaded
        self._divergences: dict[RequestId, DocumentProgress] = {}

    @property
    def stats(self) -> EngineStats:
        """Statistics of the job's model, which exclude the reference model."""
        return self.own.stats

    def load(self) -> EngineReport:
        """Load the job's model, then the reference model, and return the report of the job's model."""
        own, reference = self.reports = [self.own.load(), self.reference.load()]
        loaded = summarize_load(reference.metrics, reference.facts).get("loaded", "")
        notes = [
            text_note("peak_rss_mib covers both models. Other metrics cover only the job's own model"),
            *(text_note(f"the reference: {render_engine_note(note)}") for note in reference.notes),
        ]
        facts = {"reference": f"{self.named} · side by side, {loaded}"}
        return replace(own, facts=own.facts | facts, notes=own.notes + notes)

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        return self.own.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids with the tokenizer of the job's model."""
        return self.own.decode(ids)

    def open(self, batch_size: int | None = None) -> PairedSession:
        return PairedSession(self, batch_size)

    def arithmetic(self) -> ModelArithmetic | None:
        return self.own.arithmetic()

    def close(self) -> None:
        self.reference.close()
        self.own.close()

    def store_document_divergences(self, progress: DocumentProgress) -> None:
        """Store a scored document's divergence, and free its distributions."""
        progress.waiting = ReferenceDistributions(0, 0)  # frees its distributions
        self._divergences[progress.request.id] = progress

    def compute_divergence(self, completion: Completion) -> Divergence:
        """Return the divergence between model and reference over a scored document."""
        return self._divergences[completion.id].divergence

    def pop_reference_logprobs(self, index: int) -> Sequence[float]:
        """Return the reference's log-probabilities of a document, and free their memory."""
        return self._divergences.pop(index).reference


class PairedSession(Session):
    """Session that scores each batch of documents with the reference model, then with the job's model."""

    def __init__(self, engine: PairedEngine, batch_size: int | None) -> None:
        super().__init__(engine.capabilities)
        self.engine = engine
        self.own, self.reference = engine.own.open(batch_size), engine.reference.open(batch_size)
        self.places = compute_max_queued_distributions(int(engine.own.load().metrics["vocab_size"]))
        self.courses: deque[DocumentProgress] = deque()

    def _admit(self, request: Request) -> DocumentProgress:
        return DocumentProgress(request, self.engine.sizes[request.id])

    def _run_step(self, submitted: list[DocumentProgress], cancelled: set[RequestId]) -> list[Event]:
        self.courses.extend(submitted)
        ended = [course.request for course in self.courses if course.request.id in cancelled]
        self.courses = deque(course for course in self.courses if course.request.id not in cancelled)
        events: list[Event] = [*_run_requests_to_completion(self.own, ended, should_cancel=True).values()]
        batch = self._take_next_batch()
        reference_completions = _run_requests_to_completion(
            self.reference,
            [
                replace(
                    course.request,
                    top_logprobs=0,
                    drawn_tokens=0,
                    on_logprobs=course.waiting.store_reference_distributions,
                )
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
        completions = _run_requests_to_completion(
            self.own,
            [
                replace(course.request, on_logprobs=partial(course.compare_with_reference, named))
                for course in batch
            ],
        )
        unfinished = []
        for course in batch:
            own, other = completions[course.request.id], reference_completions[course.request.id]
            if own.error is not None:
                events.append(own)
                continue
            if (own.prompt_sha256, own.answer.token_ids) != (other.prompt_sha256, other.answer.token_ids):
                raise _different_tokenization_error(named, course.request.id)
            course.add_scoring_pass_results(own, other)
            if course.at < course.size:
                unfinished.append(course)
                continue
            self.engine.store_document_divergences(course)
            events.append(course.completion or own)
        self.courses.extendleft(reversed(unfinished))
        return events

    def _drop_requests(self) -> None:
        self.courses.clear()
        self.own.close()
        self.reference.close()

    def _take_next_batch(self) -> list[DocumentProgress]:
        """Take the next documents from the queue whose distributions fit into memory, or a part of one
        longer document.
        """
        batch: list[DocumentProgress] = []
        room = self.places
        while self.courses and room > 0 and len(batch) < TEXTS_AT_ONCE:
            course = self.courses[0]
            left = max(course.size - course.at, 1)
            if batch and left > room:
                break
            course.waiting = ReferenceDistributions(course.at, min(left, room))
            room -= left
            batch.append(self.courses.popleft())
        return batch


def _run_requests_to_completion(
    session: Session, requests: Iterable[Request], should_cancel: bool = False
) -> dict[RequestId, Completion]:
    """Run requests in an idle session and return the completions by request id."""
    for request in requests:
        session.submit(request)
        if should_cancel:
            session.cancel(request.id)
    completions: dict[RequestId, Completion] = {}

    def collect_completions(events: list[Event]) -> None:
        completions.update((event.id, event) for event in events if isinstance(event, Completion))

    run_requests(session, [], collect_completions)
    return completions


def estimate_continuation_tokens(
    requests: Sequence[Request], documents: Sequence[str], context: TaskContext, reference_name: str
) -> dict[RequestId, int]:
    """Return the estimated number of tokens of each continuation.

    Raises ConfigError if the two models would read different tokens. Only their tokenizers are
    loaded.
    """
    assert context.resolved.second is not None
    continuations = [request.continuation or "" for request in requests]
    everything: list[Prompt] = [*(request.prompt for request in requests), *continuations, *documents]
    encoded, reference_encoded = (
        get_model_kind(resolved.config.model).encode_prompts(resolved, everything)
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
        raise _different_tokenization_error(
            reference_name, differing - 2 * len(requests) if is_text else differing % len(requests)
        )
    counts = (len(ids) for _, ids in encoded[len(requests) : 2 * len(requests)])
    return {request.id: count for request, count in zip(requests, counts, strict=True)}


def _different_tokenization_error(reference_name: str, index: RequestId) -> ConfigError:
    return ConfigError(
        (
            f"the reference tokenizes document {index} differently or uses another prompt, so the "
            "two models cannot be compared token by token"
        ),
        key=KEY,
        value=reference_name,
        code="mismatch",
    )

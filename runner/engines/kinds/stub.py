"""model=stub: a model without weights that echoes the beginning of its prompt, to test whole grids
in seconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from runner.config.model import StubConfig
from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner.engines.kinds import ModelKind
from runner_base import Answer, FinishReason, signals
from runner_base.notes import text_note
from runner_base.thinking import ends_in_thinking
from runner_engine import (
    BaseModelCache,
    Capability,
    Completion,
    Delta,
    Engine,
    EngineReport,
    EngineStats,
    Event,
    KvCache,
    Message,
    Prompt,
    Request,
    RequestId,
    Session,
    request_sha256,
)

CAPABILITIES = frozenset(Capability) - {
    Capability.distributions,
    Capability.continuing,
    Capability.adapters,
    Capability.grammar,  # its words are what they are
}
HEAD_CHARACTERS = 120
THOUGHT = "Let me see ."  # is repeated


class StubEngine:
    """Engine whose answer is `[STUB_GENERATION]`, a newline and the first 120 characters of the
    prompt.

    It first thinks in the configured number of words. It can have one fixed answer instead.
    """

    capabilities = CAPABILITIES

    def __init__(
        self, config: RunnerConfig, delay_s: float, thinking_words: int = 0, fixed_answer: str | None = None
    ) -> None:
        self.delay_s, self.thinking_words, self.answer = delay_s, thinking_words, fixed_answer
        self.max_new_tokens, self.budget = (
            config.generation.max_new_tokens,
            config.generation.thinking_tokens,
        )
        self.kv_cache = config.generation.kv_cache_config
        self.stats = EngineStats()

    def load(self) -> EngineReport:
        """Return an engine report. A stub has nothing to load."""
        facts = {"architecture": "stub", "device": "none", "dtype": "none"}
        if self.kv_cache != KvCache.as_model:
            facts["kv_cache"] = (
                f"none: the stub model has no KV cache, so generation.kv_cache={self.kv_cache} has no effect"
            )
        return EngineReport(
            metrics={"load_s": 0.0, "weight_mib": 0.0, "vocab_size": 1000.0, "max_positions": 1e9},
            facts=facts,
            notes=[text_note("model=stub: answers only echo the prompt, and times have no meaning")],
        )

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the unchanged prompt text. Each word counts as a token."""
        prompt = _prompt_text(request.prompt)
        return prompt, list(range(len(prompt.split())))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the token ids as text, because a stub's tokens have no text."""
        return "".join(f"{number} " for number in ids)

    def open(self, batch_size: int | None = None) -> StubSession:
        """Open a session that answers one request at a time."""
        return StubSession(self)

    def arithmetic(self) -> None: ...

    def close(self) -> None: ...


class StubSession(Session):
    """Session that answers one request per step."""

    def __init__(self, engine: StubEngine) -> None:
        super().__init__(CAPABILITIES)
        self.engine = engine
        self.waiting: deque[Request] = deque()

    def _admit(self, request: Request) -> Request:
        return request

    def _run_step(self, submitted: list[Request], cancelled: set[RequestId]) -> list[Event]:
        self.waiting.extend(submitted)
        ended = [request for request in self.waiting if request.id in cancelled]
        events = [
            event
            for request in ended
            for event in _make_completion_events(request, [], FinishReason.cancelled, 0.0)
        ]
        self.waiting = deque(request for request in self.waiting if request.id not in cancelled)
        if self.waiting:
            events += self._answer_request(self.waiting.popleft())
        return events

    def _drop_requests(self) -> None:
        self.waiting.clear()

    def _answer_request(self, request: Request) -> list[Event]:
        """Answer a request with the beginning of its prompt. Each word counts as a token."""
        started, stats = time.perf_counter(), self.engine.stats
        prompt = _prompt_text(request.prompt)
        texts = [
            self._echo_prompt(request, prompt + branch) for branch in request.branches or ("",) * request.n
        ]
        if request.continuation is not None:
            texts = []
        cut_off = any(text.finish_reason is FinishReason.length for text in texts)
        signals.sleep_interruptibly(self.engine.delay_s)
        seconds = time.perf_counter() - started
        stats.prefill_tokens += len(_prompt_with_branches(request).split())
        stats.decode_tokens += sum(len(text.token_ids) - 1 for text in texts)
        stats.prefill_s += seconds / 2
        stats.decode_s += seconds / 2
        return _make_completion_events(
            request, texts, FinishReason.length if cut_off else FinishReason.stop, seconds
        )

    def _echo_prompt(self, request: Request, prompt: str) -> Answer:
        echo = f"[STUB_GENERATION]\n{prompt[:HEAD_CHARACTERS]}..."
        pieces = (echo if self.engine.answer is None else self.engine.answer).split(" ")
        limit = self.engine.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens
        wanted = self.engine.thinking_words
        budget = self.engine.budget if request.thinking_tokens is None else request.thinking_tokens
        thought = (THOUGHT.split() * wanted)[: wanted if budget is None else min(wanted, budget)]
        if budget is None:
            thought, limit = thought[:limit], max(limit - wanted, 0)
        kept = pieces[:limit]
        kept += ["..."] * (limit - len(kept)) if request.ignore_eos else []
        reason = FinishReason.length if len(kept) < len(pieces) else FinishReason.stop
        text, tokens = " ".join(kept), list(range(len(thought) + len(kept)))
        if not wanted:
            return Answer(text, tokens, reason)
        is_open = budget is None and not kept
        return Answer.from_text(
            f"<think>{' '.join(thought)}{'' if is_open else '</think>'}{text}",
            tokens,
            reason,
            is_spent=len(thought) < wanted and not is_open,
            thinking_tokens=len(thought),
            answer_tokens=len(kept),
        )


def _make_completion_events(
    request: Request, answers: list[Answer], finish_reason: FinishReason, seconds: float
) -> list[Event]:
    """Return one completion event per answer. A streaming request also gets a delta event per
    answer.
    """
    choices = answers if answers and not request.branches else [Answer("", [], finish_reason)] * request.n
    prompt = _prompt_with_branches(request)
    events: list[Event] = []
    for choice, answer in enumerate(choices):
        completion = Completion(
            replace(answer, finish_reason=finish_reason, in_thinking=ends_in_thinking(request.prompt)),
            request_sha256(_prompt_text(request.prompt), request),
            len(prompt.split()),
            seconds,
            id=request.id,
            first_token_s=seconds / 2,
            choice=choice,
            branches=answers if request.branches and answers else None,
        )
        if request.continuation is not None and finish_reason is not FinishReason.cancelled:
            continuation = request.continuation
            ids = list(range(len(continuation.split() if isinstance(continuation, str) else continuation)))
            completion.answer = replace(completion.answer, token_ids=ids)
            completion.logprobs, completion.greedy = [-1.0] * len(ids), [False] * len(ids)
            best = [(number, -1.0 - number) for number in range(request.top_logprobs)]
            completion.top_logprobs = [best for _ in ids] if request.top_logprobs else None
            others = range(request.top_logprobs, request.top_logprobs + request.drawn_tokens)
            drawn = [(number, -1.0 - number) for number in others]
            completion.drawn_logprobs = [drawn for _ in ids] if drawn else None
            completion.score_token_logprobs = [
                [-1.0 - token_id for token_id in some] for some in request.score_token_ids
            ] or None
            completion.min_logprobs = [-1e3 for _ in request.score_token_ids] or None
        for text, is_thinking in ((answer.thinking, True), (answer.text, False)):
            if request.deltas and text:
                events.append(Delta(request.id, choice, text, is_thinking))
        events.append(completion)
    return events


def _prompt_with_branches(request: Request) -> str:
    return " ".join([_prompt_text(request.prompt), *request.branches])


def _prompt_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return " ".join(part.content if isinstance(part, Message) else str(part) for part in prompt)


class StubKind(ModelKind):
    """Model kind of the stub, which echoes prompts instead of running a model."""

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        return {"model": "stub"}

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what the stub supports: everything except token distributions, continued answers,
        adapters per request and grammars.
        """
        return CAPABILITIES

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseModelCache | None = None, folder: Path | None = None
    ) -> Engine:
        assert isinstance(resolved.config.model, StubConfig)
        model = resolved.config.model
        return StubEngine(resolved.config, model.delay_s, model.thinking_words, model.answer)


KIND = StubKind()

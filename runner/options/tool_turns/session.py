"""An engine that answers a request by playing a whole scenario with the job's engine.

Many scenarios run at the same time. A new one starts when no prompt waits, so that scenarios end one after the
other and an interrupted job keeps them. Follow-up prompts are submitted in batches, because prompts that arrive
together share their prefixes. A scenario's completion has the last answer, and all answers as `calls`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from runner.options.tool_turns.episode import ChatForm, Episode
from runner.options.tool_turns.scenarios import Scenario
from runner.tasks import EngineWrapper
from runner_base import Answer, Call, FinishReason
from runner_engine import Capability, Completion, Engine, Event, Request, RequestId, Session, request_sha256

BATCHES = 8  # follow-up prompts wait until they are an eighth of the prompts that are decoded
STARTS = 16  # scenarios that start together
MODEL = "model"


class ScenarioEngine(EngineWrapper):
    """Engine whose requests are scenarios by number. Each request has the first prompt of its scenario."""

    def __init__(self, engine: Engine, scenarios: Mapping[int, Scenario], chat_form: ChatForm) -> None:
        super().__init__(engine)
        self.scenarios, self.chat_form = scenarios, chat_form

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The capabilities of the job's engine that a scenario can use."""
        return self.engine.capabilities & {Capability.chat, Capability.tools, Capability.tokenizer}

    def open(self, batch_size: int | None = None) -> ScenarioSession:
        return ScenarioSession(self, batch_size)


@dataclass(eq=False)
class PlayedScenario:
    """A scenario in progress, with the answers so far."""

    request: Request
    sha256: str
    episode: Episode
    calls: list[Call] = field(default_factory=list)
    cost_usd: float | None = None
    started: float = 0.0
    first_token_s: float = 0.0


class ScenarioSession(Session):
    """Session that plays scenarios in a session of the job's engine."""

    def __init__(self, engine: ScenarioEngine, batch_size: int | None) -> None:
        super().__init__(engine.capabilities)
        self.engine = engine
        self.session = engine.engine.open(batch_size)
        self._played: dict[RequestId, PlayedScenario] = {}  # by the id of the prompt that is answered now
        self._ready: list[Request] = []
        self._waiting: deque[PlayedScenario] = deque()

    def announce_prompts(self, requests: Sequence[Request]) -> None:
        self.session.announce_prompts(requests)

    def _admit(self, request: Request) -> PlayedScenario:
        episode = Episode(self.engine.scenarios[int(request.id)], self.engine.chat_form)
        return PlayedScenario(request, request_sha256(self.engine.encode(request)[0], request), episode)

    def _run_step(self, submitted: list[PlayedScenario], cancelled: set[RequestId]) -> list[Event]:
        if submitted:  # they share prefixes, whenever they start
            self.session.announce_prompts([played.request for played in submitted])
            self._waiting.extend(submitted)
        events: list[Event] = [
            _make_completion(played, Answer("", [], FinishReason.cancelled))
            for played in self._waiting
            if played.request.id in cancelled
        ]
        self._waiting = deque(played for played in self._waiting if played.request.id not in cancelled)
        for request_id, played in [*self._played.items()]:
            if played.request.id in cancelled:
                self.session.cancel(request_id)
                self._ready = [request for request in self._ready if request.id != request_id]
                del self._played[request_id]
                events.append(_make_completion(played, Answer("", [], FinishReason.cancelled)))
        if not self.engine.stats.rows_waiting:
            for _ in range(min(STARTS, len(self._waiting))):
                played = self._waiting.popleft()
                played.started = time.perf_counter()
                self._queue_prompt(played)
        if len(self._ready) * BATCHES >= self.session.num_active:
            ready, self._ready = self._ready, []
            self.session.submit_all(ready)
        for event in self.session.step():
            if isinstance(event, Completion) and event.id in self._played:
                events += self._add_answer(self._played.pop(event.id), event)
        return events

    def _drop_requests(self) -> None:
        self.session.close()
        self._played.clear()
        self._ready.clear()
        self._waiting.clear()

    def _queue_prompt(self, played: PlayedScenario) -> None:
        turn, request = len(played.calls), played.request
        random_id = f"{request.effective_random_id}/{turn}"
        prompt = played.episode.build_prompt()
        follow_up = replace(
            request, id=f"{request.id}/{turn}", prompt=prompt, random_id=random_id, recurring=True
        )
        self._played[follow_up.id] = played
        self._ready.append(follow_up)

    def _add_answer(self, played: PlayedScenario, completion: Completion) -> list[Event]:
        """Continue a scenario, or return its completion.

        A permanent error after the first answer ends the scenario, because its chat is too long. Other errors
        make the scenario fail, and the next start plays it again.
        """
        if not played.calls:
            played.first_token_s = completion.first_token_s
        unsaid = {"permanent": False, "cost_usd": None}  # the completion of the scenario says them
        played.calls.append(
            Call.from_response(
                completion,
                who=MODEL,
                what=f"turn {len(played.calls) + 1}",
                seconds=round(completion.seconds, 6),
                **unsaid,
            )
        )
        if completion.cost_usd is not None:
            played.cost_usd = (played.cost_usd or 0.0) + completion.cost_usd
        is_first = len(played.calls) == 1
        if completion.error is not None and (is_first or not completion.permanent):
            return [_make_completion(played, completion.answer, completion)]
        played.episode.add_answer(completion.answer, completion.error)
        if played.episode.has_ended:
            answer = completion.answer
            if completion.error is not None:
                answer = replace(answer, finish_reason=FinishReason.context)
            return [_make_completion(played, answer)]
        self._queue_prompt(played)
        return []


def _make_completion(played: PlayedScenario, answer: Answer, failed: Completion | None = None) -> Completion:
    return Completion(
        replace(answer, token_ids=[], new_tokens=sum(call.answer.num_tokens for call in played.calls)),
        id=played.request.id,
        prompt_sha256=played.sha256,
        prompt_tokens=sum(call.prompt_tokens for call in played.calls),
        seconds=time.perf_counter() - played.started,
        first_token_s=played.first_token_s,
        error=None if failed is None else failed.error,
        permanent=failed is not None and failed.permanent,
        cost_usd=played.cost_usd,
        calls=played.calls,
    )

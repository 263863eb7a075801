"""An engine whose answers a test writes down, request by request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from list_session import ListSession

from runner_base.result import Answer, FinishReason
from runner_engine.sessions.base import (
    Capability,
    Completion,
    EngineReport,
    Event,
    Request,
    RequestId,
    request_sha256,
)
from runner_engine.sessions.stats import EngineStats

Reply = tuple[str, FinishReason]


class Scripted:
    """Answers by the number of a request, or by a function of it, the last request first; keeps
    which were asked."""

    capabilities = frozenset(Capability)

    def __init__(self, answers: Mapping[int, Reply | list[Reply]] | Callable[[Request], Reply]) -> None:
        self.answers, self.stats = answers, EngineStats()
        self.asked: list[RequestId] = []

    def load(self) -> EngineReport:
        return EngineReport(metrics={"load_s": 0.5, "weight_mib": 1.0, "lora_modules": 2, "vocab_size": 3})

    def encode(self, request: Request) -> tuple[str, list[int]]:
        return str(request.prompt), []

    def open(self, batch_size: int | None = None) -> ListSession:
        return ListSession(self.capabilities, self.answer)

    def answer(self, requests: Sequence[Request]) -> Iterator[list[Event]]:
        for request in reversed(requests):
            self.asked.append(request.id)
            sha256 = request_sha256(str(request.prompt), request)
            scripted = self.answers(request) if callable(self.answers) else self.answers[int(request.id)]
            for choice, (text, reason) in enumerate(scripted if isinstance(scripted, list) else [scripted]):
                error = "boom" if reason is FinishReason.error else None
                answer = Answer(text, [0, 1, 2], reason)
                yield [Completion(answer, sha256, 10, 0.2, request.id, 0.1, choice, error=error)]

    def close(self) -> None: ...

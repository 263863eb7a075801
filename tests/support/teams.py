"""A team of agents whose engine answers what a test wants, call by call, and the job's folder for
several starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from list_session import ListSession

from runner.config.root import RunnerConfig
from runner.options.agents import task as agents
from runner.options.agents.keys import AgentsConfig, PromptStyle, Role, Topology
from runner.records.jobs import Job, Recorder
from runner_base.result import CALLS, Answer, FinishReason
from runner_engine.sessions.base import Capability, Completion, EngineReport, Event, Message, Request
from runner_engine.sessions.stats import EngineStats

TALKERS = [Role.inspector]  # a team that writes no code


class Team:
    """An engine that answers each call by a function of its id and its prompt."""

    capabilities = frozenset({Capability.chat})

    def __init__(self, say: Callable[[str, str], str]) -> None:
        self.say, self.stats = say, EngineStats()
        self.asked: list[str] = []
        self.loads = 0

    def load(self) -> EngineReport:
        self.loads += 1
        return EngineReport(metrics={"load_s": 0.5, "weight_mib": 1.0})

    def open(self, batch_size: int | None = None) -> ListSession:
        return ListSession(self.capabilities, self.answer)

    def answer(self, requests: Sequence[Request]) -> Iterator[list[Event]]:
        for request in reversed(requests):
            self.asked.append(str(request.id))
            assert isinstance(request.prompt, tuple)
            prompt = "\n".join(part.content for part in request.prompt if isinstance(part, Message))
            text = self.say(str(request.id), prompt)
            reason = FinishReason.error if text.startswith("error") else FinishReason.stop
            end = Completion(Answer(text, [1, 2, 3], reason), "sha", 100, 0.2, request.id, 0.1)
            end.error = text if reason is FinishReason.error else None
            end.permanent = text == "error for good"
            yield [end]

    def close(self) -> None: ...


def team(**keys: Any) -> AgentsConfig:
    plain: dict[str, Any] = {
        "limit": 3,
        "roles": TALKERS,
        "domain": PromptStyle.brief,
        "mode": Topology.debate,
    }
    return AgentsConfig(**(plain | keys))


def right(config: RunnerConfig) -> Callable[[str, str], str]:
    """Return a function that answers every call with the gold number."""
    golds = {item.question: item.gold for item in agents.prepare(config).items + agents.prepare(config).train}
    return lambda _, prompt: f"#### {next(gold for question, gold in golds.items() if question in prompt)}"


def calls_in(recorder: Recorder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (recorder.folder / CALLS).read_text().splitlines()]


class Starts:
    """The folder of a job: each call opens it like the next start of the job."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.recorder = folder, Recorder(Job("agents-test", folder))

    def __call__(self) -> Recorder:
        self.recorder.close()
        self.recorder = Recorder(Job("agents-test", self.folder))
        return self.recorder

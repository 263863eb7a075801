"""model=backwards: says the prompt backwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner.engines.kinds import Encoded, ModelKind
from runner_base.result import Answer, FinishReason
from runner_engine.local.base_model_cache import BaseModelCache
from runner_engine.sessions.base import (
    Capability,
    Completion,
    EngineReport,
    Event,
    Request,
    RequestId,
    prompt_sha256,
)
from runner_engine.sessions.contract import Engine
from runner_engine.sessions.session import Session
from runner_engine.sessions.stats import EngineStats
from runner_example.backwards_config import BackwardsConfig


class BackwardsEngine:
    """A character is a token."""

    capabilities: frozenset[Capability] = frozenset()

    def __init__(self, shout: bool) -> None:
        self.shout, self.stats = shout, EngineStats()

    def load(self) -> EngineReport:
        """Report that there is nothing to load."""
        return EngineReport(facts={"architecture": "backwards"})

    def encode(self, request: Request) -> Encoded:
        """Return the text and its characters."""
        return str(request.prompt), [ord(letter) for letter in str(request.prompt)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of characters."""
        return "".join(map(chr, ids))

    def open(self, batch_size: int | None = None) -> Session:
        """Open a session."""
        return BackwardsSession(self)

    def arithmetic(self) -> None:
        """Nothing is computed."""

    def close(self) -> None:
        """Nothing to let go of."""


class BackwardsSession(Session):
    """Answers all that has arrived at each step, so that nothing is left to cancel or to drop."""

    def __init__(self, engine: BackwardsEngine) -> None:
        super().__init__(engine.capabilities)
        self.engine = engine

    def _admit(self, request: Request) -> Request:
        return request

    def _run_step(self, submitted: list[Request], cancelled: set[RequestId]) -> list[Event]:
        return [self._answer(request) for request in submitted]

    def _drop_requests(self) -> None:
        pass

    def _answer(self, request: Request) -> Completion:
        prompt, ids = self.engine.encode(request)
        text = self.engine.decode(ids[::-1])
        text = text.upper() if self.engine.shout else text
        answer = Answer(text, ids[::-1], FinishReason.stop)
        return Completion(
            answer, prompt_sha256(prompt), len(ids), seconds=0.0, id=request.id, first_token_s=0.0
        )


class Backwards(ModelKind):
    """Its answers follow from the prompt."""

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return that it is this kind; its keys count by themselves."""
        return {"model": "backwards"}

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Claim nothing beyond completing a text."""
        return BackwardsEngine.capabilities

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseModelCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return the engine."""
        assert isinstance(resolved.config.model, BackwardsConfig)
        return BackwardsEngine(resolved.config.model.shout)


KIND = Backwards()

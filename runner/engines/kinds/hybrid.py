"""model=hybrid: a student on this machine, a teacher behind an API."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from runner.checkpoints.resolve import Resolved
from runner.config.model import HybridConfig, ModelConfig, StubConfig
from runner.config.root import RunnerConfig
from runner.core.errors import RunnerError
from runner.engines.base import Capability, Engine
from runner.engines.kinds import BaseCache, ModelKind, Need, api, kind_of
from runner.engines.remote import reviews
from runner.engines.remote.engine import ApiEngine
from runner.engines.remote.hybrid import CAPABILITIES, HybridEngine


def hybrid(config: RunnerConfig) -> HybridConfig:
    """Return the keys of the two."""
    assert isinstance(config.model, HybridConfig)
    return config.model


def student_of(config: RunnerConfig) -> tuple[ModelKind, RunnerConfig]:
    """Return the student's kind, and the job as if the student had it alone."""
    student = hybrid(config).student
    model: ModelConfig = StubConfig() if student.stub else student
    return kind_of(model), replace(config, model=model)


class Hybrid(ModelKind):
    """Says of the student what its own kind says; where the student cannot be loaded, the teacher is enough."""

    def fingerprint(self, config: RunnerConfig, resolved: Resolved, cache: Path) -> dict[str, str]:
        """Return what both rest on, and the words that they talk in."""
        kind, alone = student_of(config)
        said = api.fingerprint(hybrid(config).teacher, cache.parent)
        try:
            found = kind.fingerprint(alone, resolved, cache)
        except RunnerError:  # the load will say why
            found = {"model": "none"}
        return said | {"reviews": str(reviews.VERSION)} | {f"student {name}": digest for name, digest in found.items()}

    def check(self, config: RunnerConfig, resolved: Resolved) -> list[str]:
        """Refuse what the teacher has no word for; a student that cannot be loaded is done without: a note says so."""
        api.check(hybrid(config).teacher, config.generation)
        kind, alone = student_of(config)
        try:
            return kind.check(alone, resolved)
        except RunnerError as error:
            return [f"the student cannot be loaded, so the teacher would answer alone: {error}"]

    def need(self, config: RunnerConfig, resolved: Resolved) -> Need:
        """Predict what the student needs."""
        kind, alone = student_of(config)
        try:
            return kind.need(alone, resolved)
        except RunnerError:
            return Need(0.0, 1)

    def import_libraries(self, config: RunnerConfig, resolved: Resolved) -> None:
        """Import what the student needs."""
        kind, alone = student_of(config)
        kind.import_libraries(alone, resolved)

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what both can be asked for, one after the other."""
        return CAPABILITIES

    def open_engine(
        self, config: RunnerConfig, resolved: Resolved, bases: BaseCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return the engine with both; what `check` has refused of the student is not tried."""
        (kind, alone), teacher = student_of(config), api.settled(hybrid(config).teacher)
        remote = ApiEngine(config, teacher, api.capabilities(teacher))
        try:
            kind.check(alone, resolved)
            return HybridEngine(hybrid(config), kind.open_engine(alone, resolved, bases), remote)
        except (RunnerError, ImportError) as error:
            return HybridEngine(hybrid(config), None, remote, str(error))


KIND = Hybrid()

"""model=hybrid: a student on this machine and a teacher on a server."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from runner.checkpoints.resolve import Resolved
from runner.config.model import HybridConfig, ModelConfig, StubConfig
from runner.config.root import RunnerConfig
from runner.core.errors import RunnerError
from runner.engines.base import Capability
from runner.engines.contract import Engine
from runner.engines.kinds import BaseCache, ModelKind, Need, api, kind_of
from runner.engines.remote import reviews
from runner.engines.remote.engine import ApiEngine
from runner.engines.remote.hybrid import CAPABILITIES, HybridEngine


def hybrid(config: RunnerConfig) -> HybridConfig:
    """Return the keys of student and teacher."""
    assert isinstance(config.model, HybridConfig)
    return config.model


def student_of(config: RunnerConfig) -> tuple[ModelKind, RunnerConfig]:
    """Return the student's kind, and the config of a job with the student alone."""
    student = hybrid(config).student
    model: ModelConfig = StubConfig() if student.stub else student
    return kind_of(model), replace(config, model=model)


class Hybrid(ModelKind):
    """Delegates to the student's kind; if the student cannot be loaded, the teacher is enough."""

    def fingerprint(self, config: RunnerConfig, resolved: Resolved, cache: Path) -> dict[str, str]:
        """Return the fingerprints of both, and the version of the prompts between them."""
        kind, alone = student_of(config)
        teacher = api.fingerprint(hybrid(config).teacher, cache.parent)
        try:
            student = kind.fingerprint(alone, resolved, cache)
        except RunnerError:  # the load will report the reason
            student = {"model": "none"}
        own = {f"student {name}": digest for name, digest in student.items()}
        return teacher | {"reviews": str(reviews.VERSION)} | own

    def check(self, config: RunnerConfig, resolved: Resolved) -> list[str]:
        """Refuse parameters that the teacher's server does not accept; note a student that cannot be loaded."""
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

    def build_kernels(self, config: RunnerConfig, resolved: Resolved) -> float:
        """Build what the student needs; without a student the teacher answers alone."""
        kind, alone = student_of(config)
        try:
            return kind.build_kernels(alone, resolved)
        except RunnerError:
            return 0.0

    def import_libraries(self, config: RunnerConfig, resolved: Resolved) -> None:
        """Import what the student needs."""
        kind, alone = student_of(config)
        with suppress(RunnerError):  # as in open_engine: the teacher answers alone
            kind.import_libraries(alone, resolved)

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what both can do together."""
        return CAPABILITIES

    def open_engine(
        self, config: RunnerConfig, resolved: Resolved, bases: BaseCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return the engine with both; a student that `check` refuses is not loaded."""
        (kind, alone), teacher = student_of(config), api.with_extensions(hybrid(config).teacher)
        remote = ApiEngine(config, teacher, api.capabilities(teacher))
        try:
            kind.check(alone, resolved)
            return HybridEngine(hybrid(config), kind.open_engine(alone, resolved, bases), remote)
        except (RunnerError, ImportError) as error:
            return HybridEngine(hybrid(config), None, remote, str(error))


KIND = Hybrid()

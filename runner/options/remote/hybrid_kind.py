"""model=hybrid: a student on this machine and a teacher on a server."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from runner.config.model import StubConfig
from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner.engines.kinds import ModelKind, Need, kind_of
from runner.options.remote import api_kind as api
from runner.options.remote import reviews
from runner.options.remote.engine import ApiEngine
from runner.options.remote.hybrid import CAPABILITIES, HybridEngine
from runner.options.remote.keys import HybridConfig
from runner.options.remote.render.notes import NOTES
from runner_base import RunnerError
from runner_base.notes import note
from runner_base.render.notes import render_note
from runner_engine import BaseCache, Capability, Engine, ModelConfig


def hybrid(config: RunnerConfig) -> HybridConfig:
    """Return the keys of student and teacher."""
    assert isinstance(config.model, HybridConfig)
    return config.model


def student_of(resolved: ResolvedJob) -> tuple[ModelKind, ResolvedJob]:
    """Return the student's kind, and a job with the student alone."""
    student = hybrid(resolved.config).student
    model: ModelConfig = StubConfig() if student.stub else student
    return kind_of(model), resolved.having(model=model)


class Hybrid(ModelKind):
    """Delegates to the student's kind; if the student cannot be loaded, the teacher is enough."""

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return the fingerprints of both, and the version of the prompts between them."""
        kind, alone = student_of(resolved)
        teacher = api.fingerprint(hybrid(resolved.config).teacher, cache.parent)
        try:
            student = kind.fingerprint(alone, cache)
        except RunnerError:  # the load will report the reason
            student = {"model": "none"}
        own = {f"student {name}": digest for name, digest in student.items()}
        return teacher | {"reviews": str(reviews.VERSION)} | own

    def check(self, resolved: ResolvedJob) -> list[str]:
        """Refuse parameters that the teacher's server does not accept; note a student that cannot
        be loaded."""
        api.check(hybrid(resolved.config).teacher, resolved.config.generation)
        kind, alone = student_of(resolved)
        try:
            return kind.check(alone)
        except RunnerError as error:
            return [render_note(note("would_answer_alone", "warning", error=error), NOTES)]

    def need(self, resolved: ResolvedJob) -> Need:
        """Predict what the student needs."""
        kind, alone = student_of(resolved)
        try:
            return kind.need(alone)
        except RunnerError:
            return Need(0.0, 1)

    def build_kernels(self, resolved: ResolvedJob) -> float:
        """Build what the student needs; without a student the teacher answers alone."""
        kind, alone = student_of(resolved)
        try:
            return kind.build_kernels(alone)
        except RunnerError:
            return 0.0

    def import_libraries(self, resolved: ResolvedJob) -> None:
        """Import what the student needs."""
        kind, alone = student_of(resolved)
        with suppress(RunnerError):  # as in open_engine: the teacher answers alone
            kind.import_libraries(alone)

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what both can do together."""
        return CAPABILITIES

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return the engine with both; a student that `check` refuses is not loaded."""
        kind, alone = student_of(resolved)
        keys = hybrid(resolved.config)
        teacher = api.with_extensions(keys.teacher)
        remote = ApiEngine(resolved.config, teacher, api.capabilities(teacher))
        try:
            kind.check(alone)
            return HybridEngine(keys, kind.open_engine(alone, bases), remote)
        except (RunnerError, ImportError) as error:
            return HybridEngine(keys, None, remote, str(error))


KIND = Hybrid()

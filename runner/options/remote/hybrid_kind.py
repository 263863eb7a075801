"""Implements model=hybrid: a draft model on this machine and a fallback model on a server."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from runner.config.model import StubConfig
from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner.engines.kinds import ModelKind, ResourceNeed, get_model_kind
from runner.options.remote import api_kind as api
from runner.options.remote import reviews
from runner.options.remote.engine import ApiEngine
from runner.options.remote.hybrid import CAPABILITIES, HybridEngine
from runner.options.remote.keys import HybridConfig
from runner.options.remote.render.notes import NOTES
from runner_base import RunnerError
from runner_base.notes import note
from runner_base.render.notes import render_note
from runner_engine import BaseModelCache, Capability, Engine, ModelConfig


def as_hybrid_config(config: RunnerConfig) -> HybridConfig:
    assert isinstance(config.model, HybridConfig)
    return config.model


def make_draft_model_job(resolved: ResolvedJob) -> tuple[ModelKind, ResolvedJob]:
    student = as_hybrid_config(resolved.config).student
    model: ModelConfig = StubConfig() if student.stub else student
    return get_model_kind(model), resolved.copy_with_changed_config_groups(model=model)


class Hybrid(ModelKind):
    """Model kind of model=hybrid. If the draft model cannot be loaded, the fallback model runs alone."""

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return hashes of the draft model's files, the fallback model's name and the version of the
        review prompts.
        """
        kind, alone = make_draft_model_job(resolved)
        teacher = api.fingerprint_model(as_hybrid_config(resolved.config).teacher, cache.parent)
        try:
            student = kind.fingerprint(alone, cache)
        except RunnerError:  # the load will report the reason
            student = {"model": "none"}
        own = {f"student {name}": digest for name, digest in student.items()}
        return teacher | {"reviews": str(reviews.VERSION)} | own

    def check_job(self, resolved: ResolvedJob) -> list[str]:
        """Raise ConfigError for parameters that the fallback model's server rejects. Returns a note if no
        draft model can load.
        """
        api.check_generation_settings(as_hybrid_config(resolved.config).teacher, resolved.config.generation)
        kind, alone = make_draft_model_job(resolved)
        try:
            return kind.check_job(alone)
        except RunnerError as error:
            return [render_note(note("would_answer_alone", "warning", error=error), NOTES)]

    def predict_resources(self, resolved: ResolvedJob) -> ResourceNeed:
        """Estimate the memory and threads that the draft model needs."""
        kind, alone = make_draft_model_job(resolved)
        try:
            return kind.predict_resources(alone)
        except RunnerError:
            return ResourceNeed(0.0, 1)

    def build_kernels(self, resolved: ResolvedJob) -> float:
        kind, alone = make_draft_model_job(resolved)
        try:
            return kind.build_kernels(alone)
        except RunnerError:
            return 0.0

    def import_libraries(self, resolved: ResolvedJob) -> None:
        kind, alone = make_draft_model_job(resolved)
        with suppress(RunnerError):  # as in open_engine: the teacher answers alone
            kind.import_libraries(alone)

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return the capabilities that draft model and fallback model have in common."""
        return CAPABILITIES

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseModelCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return an engine that combines both models. A draft model that fails its check is left out."""
        kind, alone = make_draft_model_job(resolved)
        keys = as_hybrid_config(resolved.config)
        teacher = api.resolve_api_extensions_if_auto(keys.teacher)
        remote = ApiEngine(resolved.config, teacher, api.get_server_capabilities(teacher))
        try:
            kind.check_job(alone)
            return HybridEngine(keys, kind.open_engine(alone, bases), remote)
        except (RunnerError, ImportError) as error:
            return HybridEngine(keys, None, remote, str(error))


KIND = Hybrid()

"""The engine of model=llama_cpp: over a server of llama.cpp, which is compared with our own
engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from runner.config.resolved import ResolvedJob
from runner.options.remote.keys import ApiConfig, Extensions
from runner.options.remote.llama_cpp import comparison
from runner.options.remote.llama_cpp.command import flags_shown, name_of
from runner.options.remote.llama_cpp.keys import llama_cpp_model
from runner.options.remote.llama_cpp.render.notes import NOTES
from runner.options.remote.llama_cpp.server import LlamaCppServer
from runner.options.remote.started.engine import RETRIES, StartedEngine
from runner.options.remote.started.server import StartedServer
from runner.options.remote.thinking_budget import ThinkingBudget
from runner_base.notes import Note, note
from runner_base.render.notes import Template
from runner_engine import BaseCache, Capability, Request


class LlamaCppEngine(StartedEngine):
    """Requests to llama.cpp."""

    PROGRAM: ClassVar[str] = "llama.cpp"
    NOTES: ClassVar[Mapping[str, Template]] = NOTES

    def __init__(
        self,
        resolved: ResolvedJob,
        capabilities: frozenset[Capability],
        bases: BaseCache | None = None,
        folder: Path | None = None,
    ) -> None:
        self._keys = llama_cpp_model(resolved.config.model)
        self._reference = comparison.Reference()
        super().__init__(resolved, capabilities, bases, folder)

    def _client(self, url: str) -> ApiConfig:
        model = self._keys
        return ApiConfig(
            name=name_of(model),
            base_url=url,
            extensions=Extensions.llama_cpp,
            thinking_budget=ThinkingBudget.llama_cpp,
            concurrency=model.parallel,
            retries=RETRIES,
            first_token_s=model.answer_s,  # requests wait there for their turn
            answer_s=model.answer_s,
        )

    def _start(self, folder: Path) -> LlamaCppServer:
        self._reference = comparison.reference_of(self._resolved)
        return LlamaCppServer(self._resolved, folder)

    def _flags(self) -> str:
        return flags_shown(self._resolved)

    def _batch_invariance(self) -> Note:
        if self._keys.parallel > 1:
            return note("rows_together")
        return note("prompts_cached") if self._keys.caches_prompts else note("rows_alone")

    def parameters(self, request: Request) -> dict[str, Any]:
        """Return what is sent for a request; without a prompt cache, earlier requests leave
        nothing."""
        sent = super().parameters(request)
        if not self._keys.caches_prompts:
            sent["extra_body"] = {**sent.get("extra_body", {}), "cache_prompt": False}
        return sent

    def _compare(self, server: StartedServer) -> Note:
        """Compare the server with our own engine."""
        return comparison.compare(self._resolved, self._reference, server)

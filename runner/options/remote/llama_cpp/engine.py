"""Engine of model=llama_cpp: starts a llama.cpp server and verifies its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from runner.config.resolved import ResolvedJob
from runner.options.remote.keys import ApiConfig, ApiExtensions
from runner.options.remote.llama_cpp import comparison
from runner.options.remote.llama_cpp.command import format_server_options, served_model_name
from runner.options.remote.llama_cpp.keys import as_llama_cpp_config
from runner.options.remote.llama_cpp.render.notes import NOTES
from runner.options.remote.llama_cpp.server import LlamaCppServer
from runner.options.remote.started.engine import RETRIES, StartedEngine
from runner.options.remote.started.server import StartedServer
from runner.options.remote.thinking_budget import ThinkingBudget
from runner_base.notes import Note, note
from runner_base.render.notes import Template
from runner_engine import BaseModelCache, Capability, Request


class LlamaCppEngine(StartedEngine):
    PROGRAM: ClassVar[str] = "llama.cpp"
    NOTES: ClassVar[Mapping[str, Template]] = NOTES

    def __init__(
        self,
        resolved: ResolvedJob,
        capabilities: frozenset[Capability],
        bases: BaseModelCache | None = None,
        folder: Path | None = None,
    ) -> None:
        self._keys = as_llama_cpp_config(resolved.config.model)
        self._reference = comparison.ReferenceResults()
        super().__init__(resolved, capabilities, bases, folder)

    def _client_config(self, url: str) -> ApiConfig:
        model = self._keys
        return ApiConfig(
            name=served_model_name(model),
            base_url=url,
            extensions=ApiExtensions.llama_cpp,
            thinking_budget_dialect=ThinkingBudget.llama_cpp,
            concurrency=model.parallel,
            retries=RETRIES,
            first_token_timeout_s=model.request_timeout_s,  # requests wait there for their turn
            request_timeout_s=model.request_timeout_s,
        )

    def _start_server(self, folder: Path) -> LlamaCppServer:
        self._reference = comparison.load_reference_results(self._resolved)
        return LlamaCppServer(self._resolved, folder)

    def _format_flags(self) -> str:
        return format_server_options(self._resolved)

    def _batch_invariance_note(self) -> Note:
        if self._keys.parallel > 1:
            return note("rows_together")
        return note("prompts_cached") if self._keys.caches_prompts else note("rows_alone")

    def build_request_parameters(self, request: Request) -> dict[str, Any]:
        sent = super().build_request_parameters(request)
        if not self._keys.caches_prompts:
            sent["extra_body"] = {**sent.get("extra_body", {}), "cache_prompt": False}
        return sent

    def _compare_with_reference(self, server: StartedServer) -> Note:
        return comparison.compare_with_reference(self._resolved, self._reference, server)

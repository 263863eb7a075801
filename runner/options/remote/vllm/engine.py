"""Engine of model=vllm, which starts a vLLM server and compares it with transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from runner.config.resolved import ResolvedJob
from runner.options.remote.engine import ApiEngine
from runner.options.remote.keys import ApiConfig, ApiExtensions
from runner.options.remote.started.engine import RETRIES, StartedEngine
from runner.options.remote.started.server import StartedServer
from runner.options.remote.thinking_budget import ThinkingBudget
from runner.options.remote.vllm import comparison
from runner.options.remote.vllm.command import ADAPTER, format_server_options, served_model_name
from runner.options.remote.vllm.gpus import is_batch_invariance_enabled
from runner.options.remote.vllm.keys import as_vllm_config
from runner.options.remote.vllm.render.notes import NOTES
from runner.options.remote.vllm.server import VllmServer
from runner_base import JobFailed
from runner_base.notes import Note, note
from runner_base.render.notes import Template
from runner_engine import BaseModelCache, Capability, Request, complete_requests

EVENT_TOKENS = (
    16  # in an event of a stream that nobody watches: each event costs the runner a quarter of a millisecond
)


class VllmEngine(StartedEngine):
    PROGRAM: ClassVar[str] = "vLLM"
    NOTES: ClassVar[Mapping[str, Template]] = NOTES

    def __init__(
        self,
        resolved: ResolvedJob,
        capabilities: frozenset[Capability],
        bases: BaseModelCache | None = None,
        folder: Path | None = None,
    ) -> None:
        self._keys = as_vllm_config(resolved.config.model)
        self._reference = comparison.ReferenceScores()
        super().__init__(resolved, capabilities, bases, folder)

    def build_request_parameters(self, request: Request) -> dict[str, Any]:
        sent = super().build_request_parameters(request)
        if not (request.deltas or request.timed):
            sent["extra_body"] = sent.get("extra_body", {}) | {"stream_interval": EVENT_TOKENS}
        return sent

    def _client_config(self, url: str) -> ApiConfig:
        model = self._keys
        return ApiConfig(
            name=served_model_name(model),
            base_url=url,
            extensions=ApiExtensions.vllm,
            thinking_budget_dialect=None if model.reasoning_parser is None else ThinkingBudget.vllm,
            concurrency=model.concurrency,
            retries=RETRIES,
            first_token_timeout_s=model.request_timeout_s,  # requests wait there for their turn
            request_timeout_s=model.request_timeout_s,
        )

    @property
    def _served_name(self) -> str:
        return ADAPTER if self._resolved.model.files.adapter is not None else super()._served_name

    def _start_server(self, folder: Path) -> VllmServer:
        if Capability.logprobs in self.capabilities:
            self._reference = comparison.load_reference_scores(self._resolved)
        return VllmServer(self._resolved, folder)

    def _format_flags(self) -> str:
        return format_server_options(self._resolved)

    def _batch_invariance_note(self) -> Note:
        return note("batch_invariant") if is_batch_invariance_enabled() else note("not_batch_invariant")

    def _compare_with_reference(self, server: StartedServer) -> Note:
        reference = self._reference
        if Capability.logprobs not in self.capabilities:
            # the build 0.32 ends with an error in einsum()
            return note("not_compared", "warning", reason=note("no_scores"))
        if reference.missing is not None:
            return note("not_compared", "warning", reason=reference.missing)
        texts = comparison.make_scored_texts()
        base = ApiEngine(
            replace(self.config), replace(self.model, name=served_model_name(self._keys)), self.capabilities
        )
        try:
            comparison.check_same_tokens(self._resolved, reference, base.servers.tokenize(texts))
            requests = [
                Request(at, tuple(ids[:1]), continuation=tuple(ids[1:]))
                for at, ids in enumerate(reference.ids)
            ]
            done = sorted(complete_requests(base, requests), key=lambda completion: int(completion.id))
        finally:
            base.close()
        if failed := [completion.error for completion in done if completion.error]:
            raise server.get_exit_error() or JobFailed(f"vLLM scores no texts: {failed[0]}", code="failed")
        return comparison.compare_logprobs(
            self._resolved, reference, [completion.logprobs or [] for completion in done]
        )

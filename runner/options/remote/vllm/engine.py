"""The engine of model=vllm: over a server of vLLM, which is compared with transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from runner.config.resolved import ResolvedJob
from runner.options.remote.engine import ApiEngine
from runner.options.remote.keys import ApiConfig, Extensions
from runner.options.remote.started.engine import RETRIES, StartedEngine
from runner.options.remote.started.server import StartedServer
from runner.options.remote.thinking_budget import ThinkingBudget
from runner.options.remote.vllm import comparison
from runner.options.remote.vllm.command import ADAPTER, flags_shown, name_of
from runner.options.remote.vllm.gpus import batch_invariant
from runner.options.remote.vllm.keys import vllm_model
from runner.options.remote.vllm.render.notes import NOTES
from runner.options.remote.vllm.server import VllmServer
from runner_base import JobFailed
from runner_base.notes import Note, note
from runner_base.render.notes import Template
from runner_engine import BaseCache, Capability, Request, complete

EVENT_TOKENS = (
    16  # in an event of a stream that nobody watches: each event costs the runner a quarter of a millisecond
)


class VllmEngine(StartedEngine):
    """Requests to vLLM."""

    PROGRAM: ClassVar[str] = "vLLM"
    NOTES: ClassVar[Mapping[str, Template]] = NOTES

    def __init__(
        self,
        resolved: ResolvedJob,
        capabilities: frozenset[Capability],
        bases: BaseCache | None = None,
        folder: Path | None = None,
    ) -> None:
        self._keys = vllm_model(resolved.config.model)
        self._reference = comparison.Reference()
        super().__init__(resolved, capabilities, bases, folder)

    def parameters(self, request: Request) -> dict[str, Any]:
        """Return the parameters to send for a request."""
        sent = super().parameters(request)
        if not (request.deltas or request.timed):
            sent["extra_body"] = sent.get("extra_body", {}) | {"stream_interval": EVENT_TOKENS}
        return sent

    def _client(self, url: str) -> ApiConfig:
        model = self._keys
        return ApiConfig(
            name=name_of(model),
            base_url=url,
            extensions=Extensions.vllm,
            thinking_budget=None if model.reasoning_parser is None else ThinkingBudget.vllm,
            concurrency=model.concurrency,
            retries=RETRIES,
            first_token_s=model.answer_s,  # requests wait there for their turn
            answer_s=model.answer_s,
        )

    @property
    def _served_name(self) -> str:
        return ADAPTER if self._resolved.model.files.adapter is not None else super()._served_name

    def _start(self, folder: Path) -> VllmServer:
        if Capability.logprobs in self.capabilities:
            self._reference = comparison.reference_of(self._resolved)
        return VllmServer(self._resolved, folder)

    def _flags(self) -> str:
        return flags_shown(self._resolved)

    def _batch_invariance(self) -> Note:
        return note("batch_invariant") if batch_invariant() else note("not_batch_invariant")

    def _compare(self, server: StartedServer) -> Note:
        """Compare the base with transformers."""
        reference = self._reference
        if Capability.logprobs not in self.capabilities:
            # the build 0.32 ends with an error in einsum()
            return note("not_compared", "warning", reason=note("no_scores"))
        if reference.missing is not None:
            return note("not_compared", "warning", reason=reference.missing)
        texts = comparison.texts()
        base = ApiEngine(
            replace(self.config), replace(self.model, name=name_of(self._keys)), self.capabilities
        )
        try:
            comparison.check_tokens(self._resolved, reference, base.servers.tokens_of(texts))
            requests = [
                Request(at, tuple(ids[:1]), continuation=tuple(ids[1:]))
                for at, ids in enumerate(reference.ids)
            ]
            done = sorted(complete(base, requests), key=lambda completion: int(completion.id))
        finally:
            base.close()
        if failed := [completion.error for completion in done if completion.error]:
            raise server.failure() or JobFailed(f"vLLM scores no texts: {failed[0]}", code="failed")
        return comparison.verdict(
            self._resolved, reference, [completion.logprobs or [] for completion in done]
        )

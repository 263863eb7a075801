"""Engine of model=api, which sends requests to a server that is already running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.config.root import RunnerConfig
from runner.options.remote.keys import ApiConfig
from runner.options.remote.model import RemoteModel
from runner.options.remote.prompt_checks import LocalTokenizer
from runner.options.remote.server_probe import FACT, ServerProbe, probe_server
from runner.options.remote.session import ApiSession
from runner.options.remote.unchanged_server import require_unchanged_server
from runner.records.engine_measurements import EngineMeasurements
from runner_base import ConfigError
from runner_base.notes import Note
from runner_engine import Capability, EngineReport, Request


class ApiEngine(RemoteModel):
    """Engine of a model on a running server.

    With a job's folder, the engine probes the server, and compares the probe with that of an
    interrupted run.
    """

    def __init__(
        self,
        config: RunnerConfig,
        model: ApiConfig,
        capabilities: frozenset[Capability],
        job_folder: Path | None = None,
    ) -> None:
        super().__init__(config, model, capabilities)
        self._job_folder = job_folder
        self._probe: ServerProbe | None = None
        self._tokenizer = None if model.tokenizer is None else LocalTokenizer(model, model.tokenizer)
        self._server_context: float | None = None  # the context length that the server reports

    def load(self) -> EngineReport:
        if self._job_folder is None:
            return super().load()
        is_chat = self.config.task.uses_chat_template
        self._probe = probe_server(self.servers, is_chat, is_repeated=True)
        if self._probe is not None:
            if self._tokenizer is not None:
                self._tokenizer.require_same_counts(self._probe, is_chat)
            earlier = EngineMeasurements.read_from_folder(self._job_folder)
            facts = {} if earlier is None else earlier.report.facts
            require_unchanged_server(self.model, self._job_folder.name, facts, self._probe)
        report = super().load()
        self._server_context = report.metrics.get("max_positions")
        report.facts |= {} if self._probe is None else {FACT: self._probe.to_fact()}
        return report

    def build_request_parameters(self, request: Request) -> dict[str, Any]:
        """Convert a request to HTTP parameters. Raises ConfigError if no prompt fits the server's context."""
        limit = self.get_max_total_tokens(request)
        if (
            self._server_context is not None
            and request.continuation is None
            and limit >= self._server_context
        ):
            raise ConfigError(
                f"the server's context of {self._server_context:,.0f} tokens must hold the prompt and {limit:,} new "
                "tokens. Lower the limit of new tokens, or start the server with a longer context",
                key="generation.max_new_tokens",
                value=self.get_max_answer_tokens(request),
                code="too_large",
            )
        return super().build_request_parameters(request)

    def check_answer(self, request: Request, prompt_tokens: int) -> str | None:
        if self._tokenizer is not None and request.continuation is None:
            return self._tokenizer.explain_token_count_mismatch(request, prompt_tokens)
        return super().check_answer(request, prompt_tokens)

    def provenance_notes(self) -> list[Note]:
        """Return a warning if a change of the server's model cannot be detected."""
        return [] if self._probe is not None else super().provenance_notes()

    def open(self, batch_size: int | None = None) -> ApiSession:
        """Open a session. `batch_size` limits the number of concurrent requests."""
        most = self.model.concurrency
        if batch_size is not None and batch_size > most:
            raise ConfigError(
                f"a batch of {batch_size} requests exceeds this limit. Raise the limit, or lower the batch size",
                key=f"{self.model.key}.concurrency",
                value=most,
                code="conflict",
            )
        return ApiSession(self, batch_size or self.config.generation.batch_size or most)

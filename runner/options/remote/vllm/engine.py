"""The engine of model=vllm: the remote engine, over a server that it starts, compares and ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from runner.config.resolved import ResolvedJob
from runner.engines.kinds import kind_of
from runner.options.remote.engine import ApiEngine
from runner.options.remote.keys import ApiConfig, Extensions
from runner.options.remote.session import ApiSession
from runner.options.remote.thinking_budget import ThinkingBudget
from runner.options.remote.vllm import comparison
from runner.options.remote.vllm.command import ADAPTER, flags_shown, name_of
from runner.options.remote.vllm.gpus import batch_invariant
from runner.options.remote.vllm.keys import VllmConfig, vllm_model
from runner.options.remote.vllm.server import VllmServer
from runner_base import ConfigError, JobFailed, RunnerError
from runner_engine import BaseCache, Capability, EngineReport, Request, complete

if TYPE_CHECKING:
    from runner_engine import RequestEncoder

EVENT_TOKENS = 16  # in an event of a stream that nobody watches: each event costs the runner a quarter of a millisecond
RETRIES = 6  # a server that has failed takes seconds to end, and only its end says why
NO_SCORES = "vLLM's build for CPUs cannot score prompts beside an adapter"  # 0.32 ends with an error in einsum()
_wrong: dict[str, str] = {}  # bases that were compared by this process, and computed something else


class VllmEngine(ApiEngine):
    """Starts the server when it is loaded, unless an earlier job of the same base has left it
    running."""

    def __init__(
        self,
        resolved: ResolvedJob,
        capabilities: frozenset[Capability],
        bases: BaseCache | None = None,
        folder: Path | None = None,
    ) -> None:
        self._resolved, self._keys = resolved, vllm_model(resolved.config.model)
        super().__init__(
            resolved.config, client_of(self._keys, "http://127.0.0.1:1/v1"), capabilities
        )
        self._owns_bases, self._bases = bases is None, bases or BaseCache()
        self._scratch = TemporaryDirectory(prefix="runner-vllm-") if folder is None else None
        self._folder = Path(self._scratch.name) if self._scratch is not None else folder
        self._server: VllmServer | None = None
        self._log_from, self._room, self._start_s = 0, 0, 0.0
        self._reference = comparison.Reference()
        self._report: EngineReport | None = None

    def load(self) -> EngineReport:
        """Start the server unless it runs, and report what it is."""
        if self._report is not None and self.gone() is None:
            return self._report
        if self._server is None:
            self._connect()
        server = self._server
        assert server is not None
        report = super().load()
        self._room = int(report.metrics.get("max_positions", 0))
        invariant = "on: other requests do not change an answer's bits"
        report.facts = {
            "engine": server.environment.label,
            "flags": flags_shown(self._resolved),
            "compared": server.compared,
            "batch_invariant": invariant if batch_invariant() else "off: not on this hardware",
        } | {name: value for name, value in report.facts.items() if name == "sent"}
        self.stats.load_s = report.metrics["load_s"] = self._start_s
        self._report = report
        return report

    def open(self, batch_size: int | None = None) -> ApiSession:
        """Open a session to the server."""
        self.load()
        return super().open(batch_size)

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as the server renders it, with the tokenizer that it reads, too, and
        its token ids."""
        return self._encoder.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids as part of a longer text."""
        return self._encoder.decode(ids)

    @cached_property
    def _encoder(self) -> RequestEncoder:
        from runner_engine import request_encoder_of  # imports torch

        return request_encoder_of(self._resolved)

    def gone(self) -> RunnerError | None:
        """Return how the server ended, if it did."""
        return None if self._server is None else self._server.failure()

    def doubts(self) -> list[str]:
        """The files are here and hashed; what was not compared is a doubt."""
        server = self._server
        return (
            [f"vLLM was {server.compared}"]
            if server is not None and server.compared.startswith("not")
            else []
        )

    def most_tokens(self, request: Request) -> int:
        """Return the most tokens of an answer, no more than the server has positions: it refuses a
        larger number."""
        most = super().most_tokens(request)
        return min(most, self._room) if self._room else most

    def parameters(self, request: Request) -> dict[str, Any]:
        """Return the parameters to send for a request."""
        sent = super().parameters(request)
        if not (request.deltas or request.timed):
            sent["extra_body"] = sent.get("extra_body", {}) | {"stream_interval": EVENT_TOKENS}
        return sent

    def close(self) -> None:
        """Close the connections; end the server, unless the next job may use it."""
        super().close()
        if self._server is not None and self._folder is not None:
            self._server.copy_log(self._folder, self._log_from)
        if self._owns_bases or self.gone() is not None:
            self._bases.clear()
        self._server = self._report = None
        if self._scratch is not None:
            self._scratch.cleanup()

    # ---------------------------------------------------------------------------------------- start

    def _connect(self) -> None:
        key = repr([self._keys, self.config.quantization, self.config.lora])
        if key in _wrong:
            raise ConfigError(_wrong[key])
        base = kind_of(self.config.model).base_key(self.config)
        server, was_running = self._bases.get(base, lambda: self._start(self._resolved))
        if was_running and server.failure() is not None:  # it ended between two jobs
            self._bases.clear()
            server, was_running = self._bases.get(base, lambda: self._start(self._resolved))
        self._start_s = 0.0 if was_running else server.start_s
        self._use(
            server, ADAPTER if self._resolved.files.adapter is not None else name_of(self._keys)
        )
        self._log_from = (
            server.log.stat().st_size if was_running and server.log.exists() else server.log_from
        )
        if not server.compared:
            try:
                server.compared = self._compare()
            except ConfigError as error:
                _wrong[key] = str(error)
                raise
            except BaseException:
                self._bases.clear()
                raise

    def _start(self, resolved: ResolvedJob) -> VllmServer:
        assert self._folder is not None
        if Capability.logprobs in self.capabilities:
            self._reference = comparison.reference_of(resolved)  # before vLLM takes the memory
        return VllmServer(resolved, self._folder)

    def _use(self, server: VllmServer, name: str) -> None:
        """Send requests to a model of the server."""
        super().close()
        self._server = server
        self.model = replace(client_of(self._keys, server.url), name=name)

    def _compare(self) -> str:
        """Compare the base with transformers; return how near they are, or why that is not
        known."""
        reference, server = self._reference, self._server
        assert server is not None
        if Capability.logprobs not in self.capabilities:
            return f"not compared: {NO_SCORES}, so only jobs without an adapter are"
        if reference.missing:
            return f"not compared: {reference.missing}"
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
            raise server.failure() or JobFailed(f"vLLM scores no texts: {failed[0]}")
        return comparison.verdict(
            self._resolved, reference, [completion.logprobs or [] for completion in done]
        )


def client_of(model: VllmConfig, url: str) -> ApiConfig:
    """Return the keys with which the remote engine speaks to the server."""
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

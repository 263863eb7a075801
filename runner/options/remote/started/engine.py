"""Engine whose server is started by the runner. Jobs with equal server settings share one server."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

from runner.config.resolved import ResolvedJob
from runner.engines.kinds import get_model_kind
from runner.options.remote.engine import ApiEngine
from runner.options.remote.keys import ApiConfig
from runner.options.remote.session import ApiSession
from runner.options.remote.started.server import StartedServer
from runner_base import ConfigError, RunnerError
from runner_base.errors import convert_error
from runner_base.notes import Note, note
from runner_base.render.notes import Template, render_note
from runner_engine import BaseModelCache, Capability, EngineReport, Request

if TYPE_CHECKING:
    from runner_engine import RequestEncoder

RETRIES = 6  # a server that has failed takes seconds to end, and only its end says why
NOWHERE = "http://127.0.0.1:1/v1"  # the address of a server that is not started yet
wrong: dict[str, ConfigError] = {}  # bases that were compared by this process, and computed something else


class StartedEngine(ApiEngine):
    """Engine that starts its server at loading, unless an earlier job with equal settings left the
    server running.
    """

    PROGRAM: ClassVar[str]  # as sentences name it
    NOTES: ClassVar[Mapping[str, Template]]

    def __init__(
        self,
        resolved: ResolvedJob,
        capabilities: frozenset[Capability],
        bases: BaseModelCache | None = None,
        folder: Path | None = None,
    ) -> None:
        self._resolved = resolved
        super().__init__(resolved.config, self._client_config(NOWHERE), capabilities)
        self._owns_bases, self._bases = bases is None, bases or BaseModelCache()
        self._scratch = TemporaryDirectory(prefix="runner-server-") if folder is None else None
        self._folder = Path(self._scratch.name) if self._scratch is not None else folder
        self._server: StartedServer | None = None
        self._log_from, self._room, self._start_s = 0, 0, 0.0
        self._report: EngineReport | None = None

    @abstractmethod
    def _client_config(self, url: str) -> ApiConfig:
        """Return the config with which the engine connects to the started server."""

    @abstractmethod
    def _start_server(self, folder: Path) -> StartedServer:
        """Start the server. Reference results are computed first, because the server will use the memory."""

    @abstractmethod
    def _compare_with_reference(self, server: StartedServer) -> Note:
        """Compare a new server with a reference program. Returns a note (a warning if nothing was
        compared), or raises ConfigError for a mismatch.
        """

    @abstractmethod
    def _format_flags(self) -> str:
        """Return the server's options as text for the run record."""

    @abstractmethod
    def _batch_invariance_note(self) -> Note:
        """Return a note on whether an answer can depend on other requests in its batch."""

    @property
    def _served_name(self) -> str:
        """Return the name on the server of the model, or of its adapter."""
        return self._client_config(NOWHERE).name

    def load(self) -> EngineReport:
        """Start the server unless it is running already. Reports its version, its flags and its comparison
        with the reference.
        """
        if self._report is not None and self.failure() is None:
            return self._report
        if self._server is None:
            self._connect_server()
        server = self._server
        assert server is not None
        report = super().load()
        self._room = int(report.metrics.get("max_positions", 0))
        sent = {name: value for name, value in report.facts.items() if name == "sent"}
        assert server.compared is not None
        report.facts = {
            "engine": server.label,
            "flags": self._format_flags(),
            "compared": render_note(server.compared, self.NOTES),
            "batch_invariant": render_note(self._batch_invariance_note(), self.NOTES),
        } | sent
        self.stats.load_s = report.metrics["load_s"] = self._start_s
        self._report = report
        return report

    def open(self, batch_size: int | None = None) -> ApiSession:
        self.load()
        return super().open(batch_size)

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt after the chat template and its token ids, from the same tokenizer as the
        server's.
        """
        return self._encoder.encode_prompt(request)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids within a longer text."""
        return self._encoder.decode(ids)

    @cached_property
    def _encoder(self) -> RequestEncoder:
        from runner_engine import create_tokenizer_only_encoder  # imports torch

        return create_tokenizer_only_encoder(self._resolved.model)

    def failure(self) -> RunnerError | None:
        """Return an error on how the server has ended, or None while the server runs."""
        return None if self._server is None else self._server.exit_error()

    def provenance_notes(self) -> list[Note]:
        """Return a warning if the server was not fully compared with the reference. The model's files are
        local and hashed.
        """
        compared = None if self._server is None else self._server.compared
        if compared is None or compared.level == "info":
            return []
        finding = render_note(compared, self.NOTES)
        return [note("not_compared", "warning", program=self.PROGRAM, finding=finding)]

    def max_total_tokens(self, request: Request) -> int:
        """Return the token budget for thinking and answer, at most the server's context length, because
        the server rejects larger budgets.
        """
        most = super().max_total_tokens(request)
        return min(most, self._room) if self._room else most

    def close(self) -> None:
        """Close the connections, and stop the server unless the next job may use it."""
        super().close()
        if self._server is not None and self._folder is not None:
            self._server.copy_log(self._folder, self._log_from)
        if self._owns_bases or self.failure() is not None:
            self._bases.clear()
        self._server = self._report = None
        if self._scratch is not None:
            self._scratch.cleanup()

    # ---------------------------------------------------------------------------------------- start

    def _connect_server(self) -> None:
        assert self._folder is not None
        base = get_model_kind(self.config.model).base_key(self.config)
        if base in wrong:
            raise copy(wrong[base])
        folder = self._folder
        server, was_running = self._bases.get_or_load(base, lambda: self._start_server(folder))
        if was_running and server.exit_error() is not None:  # it ended between two jobs
            self._bases.clear()
            server, was_running = self._bases.get_or_load(base, lambda: self._start_server(folder))
        self._start_s = 0.0 if was_running else server.start_s
        super().close()
        self._server = server
        self.model = replace(self._client_config(server.url), name=self._served_name)
        self._log_from = server.log.stat().st_size if was_running and server.log.exists() else server.log_from
        if server.compared is None:
            try:
                server.compared = self._compare_with_reference(server)
            except ConfigError as error:
                wrong[base] = convert_error(error, ConfigError)
                raise
            except BaseException:
                self._bases.clear()
                raise

"""Engine that starts its own server. Jobs with equal server settings share one server."""

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
BATCH_INVARIANT_NOTES = ("batch_invariant", "rows_alone")
wrong: dict[str, ConfigError] = {}  # bases that were compared by this process, and computed something else


class StartedEngine(ApiEngine):
    """Engine that starts a server when it loads, or reuses the running server of an earlier job with
    equal settings.
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
        """Return the config that the engine uses to connect to the started server."""

    @abstractmethod
    def _start_server(self, folder: Path) -> StartedServer:
        """Compute the reference results, then start the server, which will occupy the memory."""

    @abstractmethod
    def _compare_with_reference(self, server: StartedServer) -> Note:
        """Compare a new server's results with the reference results, and return a note.

        Raises ConfigError for a mismatch. The note is a warning if nothing was compared.
        """

    @abstractmethod
    def _format_flags(self) -> str:
        """Return the server's options as text for the run record."""

    @abstractmethod
    def _batch_invariance_note(self) -> Note:
        """Return a note on batch invariance, that is, whether concurrent requests can change an answer."""

    @property
    def _served_name(self) -> str:
        return self._client_config(NOWHERE).name

    def load(self) -> EngineReport:
        """Start the server if needed. Reports its version, its flags, and how much its results differ
        from the reference.
        """
        if self._report is not None and self.failure() is None:
            return self._report
        if self._server is None:
            self._connect_or_start_server()
        server = self._server
        assert server is not None
        report = super().load()
        self._room = int(report.metrics.get("max_positions", 0))
        sent = {name: value for name, value in report.facts.items() if name == "sent"}
        assert server.compared is not None
        batch_note = self._batch_invariance_note()
        if batch_note.code in BATCH_INVARIANT_NOTES:
            report.metrics["batch_invariant"] = 1.0
        report.facts = {
            "engine": server.label,
            "flags": self._format_flags(),
            "compared": render_note(server.compared, self.NOTES),
            "batch_invariant": render_note(batch_note, self.NOTES),
        } | sent
        self.stats.load_s = report.metrics["load_s"] = self._start_s
        self._report = report
        return report

    def open(self, batch_size: int | None = None) -> ApiSession:
        self.load()
        return super().open(batch_size)

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Render and tokenize a prompt with the tokenizer of the server's model."""
        return self._encoder.encode_prompt(request)

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoder.decode(ids)

    @cached_property
    def _encoder(self) -> RequestEncoder:
        from runner_engine import create_tokenizer_only_encoder  # imports torch

        return create_tokenizer_only_encoder(self._resolved.model)

    def failure(self) -> RunnerError | None:
        """Return an error with the reason if the server has ended, otherwise None."""
        return None if self._server is None else self._server.get_exit_error()

    def provenance_notes(self) -> list[Note]:
        """Return a warning if the server's results were not completely compared with the reference."""
        compared = None if self._server is None else self._server.compared
        if compared is None or compared.level == "info":
            return []
        finding = render_note(compared, self.NOTES)
        return [note("not_compared", "warning", program=self.PROGRAM, finding=finding)]

    def get_max_total_tokens(self, request: Request) -> int:
        """Return the token budget for thinking plus answer, limited to the server's context length."""
        most = super().get_max_total_tokens(request)
        return min(most, self._room) if self._room else most

    def close(self) -> None:
        """Close the connections. Stops the server, unless a later job can reuse it."""
        super().close()
        if self._server is not None and self._folder is not None:
            self._server.copy_log(self._folder, self._log_from)
        if self._owns_bases or self.failure() is not None:
            self._bases.clear()
        self._server = self._report = None
        if self._scratch is not None:
            self._scratch.cleanup()

    # ---------------------------------------------------------------------------------------- start

    def _connect_or_start_server(self) -> None:
        assert self._folder is not None
        base = get_model_kind(self.config.model).base_key(self.config)
        if base in wrong:
            raise copy(wrong[base])
        folder = self._folder
        server, was_running = self._bases.get_or_load_base_model(base, lambda: self._start_server(folder))
        if was_running and server.get_exit_error() is not None:  # it ended between two jobs
            self._bases.clear()
            server, was_running = self._bases.get_or_load_base_model(base, lambda: self._start_server(folder))
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

"""An engine over a server that the runner starts: the remote engine, with a base that jobs share."""

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
from runner.engines.kinds import kind_of
from runner.options.remote.engine import ApiEngine
from runner.options.remote.keys import ApiConfig
from runner.options.remote.session import ApiSession
from runner.options.remote.started.server import StartedServer
from runner_base import ConfigError, RunnerError
from runner_base.errors import convert_error
from runner_base.notes import Note, note
from runner_base.render.notes import Template, render_note
from runner_engine import BaseCache, Capability, EngineReport, Request

if TYPE_CHECKING:
    from runner_engine import RequestEncoder

RETRIES = 6  # a server that has failed takes seconds to end, and only its end says why
NOWHERE = "http://127.0.0.1:1/v1"  # the address of a server that is not started yet
wrong: dict[str, ConfigError] = {}  # bases that were compared by this process, and computed something else


class StartedEngine(ApiEngine):
    """Starts the server when it is loaded, unless an earlier job of the same base has left it
    running."""

    PROGRAM: ClassVar[str]  # as sentences name it
    NOTES: ClassVar[Mapping[str, Template]]

    def __init__(
        self,
        resolved: ResolvedJob,
        capabilities: frozenset[Capability],
        bases: BaseCache | None = None,
        folder: Path | None = None,
    ) -> None:
        self._resolved = resolved
        super().__init__(resolved.config, self._client(NOWHERE), capabilities)
        self._owns_bases, self._bases = bases is None, bases or BaseCache()
        self._scratch = TemporaryDirectory(prefix="runner-server-") if folder is None else None
        self._folder = Path(self._scratch.name) if self._scratch is not None else folder
        self._server: StartedServer | None = None
        self._log_from, self._room, self._start_s = 0, 0, 0.0
        self._report: EngineReport | None = None

    @abstractmethod
    def _client(self, url: str) -> ApiConfig:
        """Return the keys with which the remote engine speaks to the server."""

    @abstractmethod
    def _start(self, folder: Path) -> StartedServer:
        """Start the server; what must be computed before it takes the memory is, first."""

    @abstractmethod
    def _compare(self, server: StartedServer) -> Note:
        """Compare a new server with another program, and return how near they are, or, as a warning, why
        that is not known; ConfigError if it computes something else."""

    @abstractmethod
    def _flags(self) -> str:
        """Return the options that the server is started with, as a record has them."""

    @abstractmethod
    def _batch_invariance(self) -> Note:
        """Return whether an answer depends on other requests."""

    @property
    def _served_name(self) -> str:
        """The name of the model, or of its adapter, at the server."""
        return self._client(NOWHERE).name

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
        sent = {name: value for name, value in report.facts.items() if name == "sent"}
        assert server.compared is not None
        report.facts = {
            "engine": server.label,
            "flags": self._flags(),
            "compared": render_note(server.compared, self.NOTES),
            "batch_invariant": render_note(self._batch_invariance(), self.NOTES),
        } | sent
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

        return request_encoder_of(self._resolved.model)

    def gone(self) -> RunnerError | None:
        """Return how the server ended, if it did."""
        return None if self._server is None else self._server.failure()

    def doubts(self) -> list[Note]:
        """The files are here and hashed; what was not compared is a doubt."""
        compared = None if self._server is None else self._server.compared
        if compared is None or compared.level == "info":
            return []
        finding = render_note(compared, self.NOTES)
        return [note("not_compared", "warning", program=self.PROGRAM, finding=finding)]

    def most_tokens(self, request: Request) -> int:
        """Return the most tokens of an answer, no more than the server has positions: it refuses a
        larger number."""
        most = super().most_tokens(request)
        return min(most, self._room) if self._room else most

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
        assert self._folder is not None
        base = kind_of(self.config.model).base_key(self.config)
        if base in wrong:
            raise copy(wrong[base])
        folder = self._folder
        server, was_running = self._bases.get(base, lambda: self._start(folder))
        if was_running and server.failure() is not None:  # it ended between two jobs
            self._bases.clear()
            server, was_running = self._bases.get(base, lambda: self._start(folder))
        self._start_s = 0.0 if was_running else server.start_s
        super().close()
        self._server = server
        self.model = replace(self._client(server.url), name=self._served_name)
        self._log_from = server.log.stat().st_size if was_running and server.log.exists() else server.log_from
        if server.compared is None:
            try:
                server.compared = self._compare(server)
            except ConfigError as error:
                wrong[base] = convert_error(error, ConfigError)
                raise
            except BaseException:
                self._bases.clear()
                raise

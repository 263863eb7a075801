"""Pool of servers that serve the same model. Each request goes to the least busy server.

A server that is unreachable or fails repeatedly is excluded, and the others get its
requests. The pool probes an excluded server's list of models at intervals, and uses the
server again once it answers.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from itertools import count
from typing import Any, Self, TypeVar

from runner.options.remote.event_loop_thread import EventLoopThread
from runner.options.remote.faults import InvalidTokenCounts, RequestFault, RequestRejected
from runner.options.remote.keys import ApiConfig, ApiExtensions
from runner.options.remote.scoring import Scorer
from runner.options.remote.server_connection import KEPT, ModelList, ServerConnection
from runner.options.remote.server_text import parse_token_count
from runner_base import ConfigError, JobFailed, RunnerError

log = logging.getLogger(__name__)
T = TypeVar("T")
ServerRequest = Callable[[ServerConnection], Awaitable[T]]
MAX_WAIT_S = 30.0  # between two tries, unless the server says how long
FAILURES_IN_A_ROW = (
    3  # leave a server out: one that fails quickly is the least busy, and would get all requests
)
_reported_out: set[str] = set()  # servers of which this process has said that they are left out


class ServerPool:
    """Connections to all servers of a model. One thread does their network work until the pool is closed."""

    def __init__(
        self,
        model: ApiConfig,
        retry_counts: Counter[str] | None = None,
        get_failure: Callable[[], RunnerError | None] = lambda: None,
    ) -> None:
        # gone: why no server will answer any more, if that is known
        self.model, self._gone = (model, get_failure)
        # requests that were sent again, by cause
        self.retries = Counter() if retry_counts is None else retry_counts
        self._reported: tuple[str, str] | None = None  # a server, and what it reports of its model
        self._probes: set[asyncio.Task[None]] = set()
        self._thread = EventLoopThread()
        try:
            self.servers = self._thread.run(self._open_connections())
        except BaseException:
            self._thread.close()
            raise
        self.call_soon = self._thread.call_soon

    async def _open_connections(self) -> list[ServerConnection]:
        return [ServerConnection(server) for server in self.model.single_server_configs]

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._thread.run(coroutine)

    def close(self) -> None:
        """End all requests and close all connections."""
        if not self._thread.is_closed:
            self._thread.close(self._close_clients)

    async def _close_clients(self) -> None:
        for server in self.servers:
            await server.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def redact_message(self, message: object) -> str:
        text = str(message)
        for server in self.servers:
            text = server.plain(text)
        return text

    def collect_server_statistics(self) -> list[dict[str, Any]]:
        """Return statistics per server, or nothing if there is only one server."""
        if len(self.servers) == 1:
            return []
        return [
            {
                "server": server.model.base_url,
                "requests": server.requests,
                "failures": server.failures,
                "state": "left out" if server.is_left_out else "in use",
            }
            for server in self.servers
        ]

    # ------------------------------------------------------------------------------------- requests

    async def run_with_retries(self, server_request: ServerRequest[T], max_rounds: int) -> T:
        """Try a request on one server after another, with growing delays. Raises the last error."""
        rounds, asked = 1, set[ServerConnection]()
        for number in count(1):
            server = await self._choose_server(asked)
            server.under_way += 1
            try:
                answer = await server_request(server)
            except RequestFault as fault:
                if (reason := self._gone()) is not None:
                    raise reason from None
                self._record_server_failure(server, fault)
                asked.add(server)
                others = [
                    server
                    for server in self._get_active_servers()
                    if server not in asked and not server.remaining_pause_s
                ]
                fault.tries, wait_s = number, fault.wait_s
                if not others and (rounds >= max_rounds or fault.permanent):
                    raise
                if not self.retries[fault.kind]:
                    log.warning("%s: repeating the request, up to %d times", fault, max_rounds - 1)
                self.retries[fault.kind] += 1
                if not others and (fault.wait_s or 0) > self.model.request_timeout_s:
                    late = (
                        f"the server requests a wait of {fault.wait_s:,.0f} s, longer than "
                        f"{self.model.key}.request_timeout_s"
                    )
                    raise JobFailed(f"{fault}; {late}. {KEPT}", code="refused") from None
            else:
                server.failures_in_a_row = server.times_left_out = 0
                return answer
            finally:
                server.under_way -= 1
            if others:
                continue  # another server can answer at once
            asked.clear()
            if wait_s is None:
                most_s = min(MAX_WAIT_S, self.model.backoff_s * 2 ** (rounds - 1))
                await asyncio.sleep(most_s * random.uniform(0.5, 1))
            rounds += 1
        raise AssertionError

    def _get_active_servers(self) -> list[ServerConnection]:
        """Return the servers that are not excluded after failures. If all are excluded, return all, so
        that requests report errors.
        """
        return [server for server in self.servers if not server.is_left_out] or self.servers

    async def _choose_server(self, tried_servers: set[ServerConnection]) -> ServerConnection:
        """Return the least busy server, preferring servers outside `tried_servers`.

        Waits while all servers have requested a pause.
        """
        while True:
            servers = self._get_active_servers()
            ready = [server for server in servers if not server.remaining_pause_s]
            if ready:
                choices = [server for server in ready if server not in tried_servers] or ready
                return min(choices, key=lambda choice: (choice.under_way, choice.requests))
            await asyncio.sleep(
                min(server.remaining_pause_s for server in servers) + random.uniform(0, self.model.backoff_s)
            )

    def _record_server_failure(self, server: ServerConnection, fault: RequestFault) -> None:
        server.failures += 1
        if fault.wait_s is not None:
            server.pause(fault.wait_s)  # it is only busy
            return
        server.failures_in_a_row += 1
        if len(self.servers) > 1 and (not fault.reached or server.failures_in_a_row >= FAILURES_IN_A_ROW):
            self._exclude_server(server, fault)

    def _exclude_server(self, server: ServerConnection, reason: RequestFault | RequestRejected) -> None:
        if server.is_left_out:
            return
        server.is_left_out = True
        server.times_left_out += 1
        if server.model.base_url not in _reported_out:
            _reported_out.add(server.model.base_url)
            is_last = all(server.is_left_out for server in self.servers)
            log.warning(
                "%s: gets no requests until it answers again; %s",
                reason,
                "no other server is left" if is_last else "the other servers get its requests",
            )
        probe = asyncio.ensure_future(self._probe_until_available(server))
        self._probes.add(probe)  # the event loop itself keeps only a weak reference
        probe.add_done_callback(self._probes.discard)

    async def _probe_until_available(self, server: ServerConnection) -> None:
        for number in count(server.times_left_out):
            await asyncio.sleep(min(MAX_WAIT_S, self.model.backoff_s * 2**number) * random.uniform(0.5, 1))
            try:
                self._require_same_served_model(server, await server.list_models())
            except (RequestFault, RequestRejected):
                continue
            except RunnerError as error:
                log.warning("%s: it stays left out", error)
                return
            break
        server.is_left_out, server.failures_in_a_row = False, 0
        _reported_out.discard(server.model.base_url)
        log.warning("%s answers again and gets requests again", server.model.base_url)

    # --------------------------------------------------------------------------------------- models

    def list_models(self) -> ModelList:
        """Return the model list of the servers. Raises an error if their lists differ."""
        return self.run(self._list_models())

    async def _list_models(self) -> ModelList:
        if len(self.servers) == 1:
            try:
                return await self.run_with_retries(
                    ServerConnection.list_models, min(3, self.model.retries + 1)
                )
            except (RequestFault, RequestRejected) as error:
                raise JobFailed(f"{error}. {KEPT}", code="unreachable") from None
        lists = await asyncio.gather(*map(self._list_models_or_exclude, self.servers))
        answered = [listed for listed in lists if isinstance(listed, ModelList)]
        if not answered:
            raise JobFailed(
                f"{next(error for error in lists if isinstance(error, Exception))}. {KEPT}",
                code="unreachable",
            )
        # what all can do: the parameters of the least able, and the room of the smallest
        return min(
            answered, key=lambda listed: (listed.extensions is ApiExtensions.vllm, _context_length(listed))
        )

    async def _list_models_or_exclude(self, server: ServerConnection) -> ModelList | Exception:
        """Fetch a server's list of models. If the request fails, excludes the server and returns the
        error.
        """
        try:
            listed = await server.list_models()
        except (RequestFault, RequestRejected) as error:
            server.failures += 1
            self._exclude_server(server, error)
            return error
        self._require_same_served_model(server, listed)
        return listed

    def _require_same_served_model(self, server: ServerConnection, models: ModelList) -> None:
        """Raise ConfigError if a server lacks the model, or serves a different model under the same name."""
        model, address = self.model, server.model.base_url
        if models.names and not models.own:
            raise ConfigError(
                f"{address} has no such model. Its models are {', '.join(models.names[:20])}",
                key=f"{model.key}.name",
                value=model.name,
                code="not_found",
            )
        self._reported = self._reported or (address, models.reported)
        other, reported = self._reported
        if models.reported != reported:
            differ = f"{address} reports {models.reported}, but {other} reports {reported}"
            raise ConfigError(
                f"the servers serve different models: {differ}", key=f"{model.key}.base_url", code="mismatch"
            )

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts, including special tokens. Raises an error if no server supports tokenization."""
        return self._run_scorer(lambda scorer: scorer.tokenize(texts))

    def detokenize(self, ids: Sequence[int]) -> str:
        return self._run_scorer(lambda scorer: scorer.detokenize(ids))

    def check_token_scoring(self) -> None:
        """Raise ConfigError unless the servers can report log-probabilities of requested token ids."""
        self._run_scorer(lambda scorer: scorer.detect_scoring_method())

    def _run_scorer(self, query: Callable[[Scorer], Awaitable[T]]) -> T:
        attempt = partial(ServerConnection.run_scorer, query=query)
        try:
            return self.run(self.run_with_retries(attempt, self.model.retries + 1))
        except (RequestFault, RequestRejected) as error:
            raise JobFailed(f"{error}. {KEPT}", code="failed") from None


def _context_length(models: ModelList) -> float:
    """Return the model's context length in tokens, or infinity if the server does not report it."""
    try:
        return parse_token_count("max_model_len", models.own.get("max_model_len"))
    except InvalidTokenCounts:
        return float("inf")

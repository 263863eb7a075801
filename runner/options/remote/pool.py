"""The servers of a model: one, or several with the same model. Requests go to the least busy one.

A server that cannot be reached, or that fails again and again, is left out: its requests are sent
to the others. It is asked for its list of models now and then, and gets requests again when it
answers.
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

from runner.options.remote.faults import Fault, Miscounted, RequestRejected
from runner.options.remote.keys import ApiConfig, Extensions
from runner.options.remote.loop import LoopThread
from runner.options.remote.scoring import Scorer
from runner.options.remote.server import KEPT, ModelList, ServerConnection
from runner.options.remote.server_text import token_count
from runner_base import ConfigError, JobFailed, RunnerError

log = logging.getLogger(__name__)
T = TypeVar("T")
Attempt = Callable[[ServerConnection], Awaitable[T]]
MAX_WAIT_S = 30.0  # between two tries, unless the server says how long
FAILURES_IN_A_ROW = (
    3  # leave a server out: one that fails quickly is the least busy, and would get all requests
)
_reported_out: set[str] = set()  # servers of which this process has said that they are left out


class ServerPool:
    """The connections to a model's servers; their work runs in one thread until the pool is
    closed."""

    def __init__(
        self,
        model: ApiConfig,
        retries: Counter[str] | None = None,
        gone: Callable[[], RunnerError | None] = lambda: None,
    ) -> None:
        # gone: why no server will answer any more, if that is known
        self.model, self._gone = (model, gone)
        # requests that were sent again, by cause
        self.retries = Counter() if retries is None else retries
        self._reported: tuple[str, str] | None = None  # a server, and what it reports of its model
        self._probes: set[asyncio.Task[None]] = set()
        self._thread = LoopThread()
        try:
            self.servers = self._thread.call(self._open())
        except BaseException:
            self._thread.close()
            raise
        self.call_soon = self._thread.call_soon

    async def _open(self) -> list[ServerConnection]:
        return [ServerConnection(server) for server in self.model.servers]

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the pool's thread, and wait for its result."""
        return self._thread.call(work)

    def close(self) -> None:
        """End all requests and close every connection."""
        if not self._thread.is_closed:
            self._thread.close(self._close_clients)

    async def _close_clients(self) -> None:
        for server in self.servers:
            await server.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def plain(self, message: object) -> str:
        """Return a message on one line, without the key of any server."""
        text = str(message)
        for server in self.servers:
            text = server.plain(text)
        return text

    def table(self) -> list[dict[str, Any]]:
        """Return one line for each server of several; empty for a single one."""
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

    async def with_retries(self, attempt: Attempt[T], tries: int) -> T:
        """Try until an answer comes, at each server in turn, with increasing waits; raise the fault
        of the last try."""
        rounds, asked = 1, set[ServerConnection]()
        for number in count(1):
            server = await self._pick(asked)
            server.under_way += 1
            try:
                answer = await attempt(server)
            except Fault as fault:
                if (reason := self._gone()) is not None:
                    raise reason from None
                self._note_failure(server, fault)
                asked.add(server)
                others = [server for server in self._in_use() if server not in asked and not server.closed_s]
                fault.tries, wait_s = number, fault.wait_s
                if not others and (rounds >= tries or fault.permanent):
                    raise
                if not self.retries[fault.kind]:
                    log.warning("%s: trying again, up to %d times", fault, tries - 1)
                self.retries[fault.kind] += 1
                if not others and (fault.wait_s or 0) > self.model.answer_s:
                    late = f"it asks to wait {fault.wait_s:,.0f} s, longer than {self.model.key}.answer_s"
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

    def _in_use(self) -> list[ServerConnection]:
        """Return the servers that get requests: if all are left out, all, so that the error of one
        is reported."""
        return [server for server in self.servers if not server.is_left_out] or self.servers

    async def _pick(self, asked: set[ServerConnection]) -> ServerConnection:
        """Return the least busy server, one that was not asked yet if possible; wait if all have
        asked for a pause."""
        while True:
            servers = self._in_use()
            ready = [server for server in servers if not server.closed_s]
            if ready:
                choices = [server for server in ready if server not in asked] or ready
                return min(choices, key=lambda choice: (choice.under_way, choice.requests))
            await asyncio.sleep(
                min(server.closed_s for server in servers) + random.uniform(0, self.model.backoff_s)
            )

    def _note_failure(self, server: ServerConnection, fault: Fault) -> None:
        server.failures += 1
        if fault.wait_s is not None:
            server.close_for(fault.wait_s)  # it is only busy
            return
        server.failures_in_a_row += 1
        if len(self.servers) > 1 and (not fault.reached or server.failures_in_a_row >= FAILURES_IN_A_ROW):
            self._leave_out(server, fault)

    def _leave_out(self, server: ServerConnection, reason: Fault | RequestRejected) -> None:
        if server.is_left_out:
            return
        server.is_left_out = True
        server.times_left_out += 1
        if server.model.base_url not in _reported_out:
            _reported_out.add(server.model.base_url)
            is_last = all(server.is_left_out for server in self.servers)
            log.warning(
                "%s: left out until it answers again; %s",
                reason,
                "no other server is left" if is_last else "the other servers get its requests",
            )
        probe = asyncio.ensure_future(self._bring_back(server))
        self._probes.add(probe)  # the event loop itself keeps only a weak reference
        probe.add_done_callback(self._probes.discard)

    async def _bring_back(self, server: ServerConnection) -> None:
        """Ask a server that is left out for its models now and then, until it answers."""
        for number in count(server.times_left_out):
            await asyncio.sleep(min(MAX_WAIT_S, self.model.backoff_s * 2**number) * random.uniform(0.5, 1))
            try:
                self._check(server, await server.list_models())
            except (Fault, RequestRejected):
                continue
            except RunnerError as error:
                log.warning("%s: it stays left out", error)
                return
            break
        server.is_left_out, server.failures_in_a_row = False, 0
        _reported_out.discard(server.model.base_url)
        log.warning("%s answers again, and gets requests again", server.model.base_url)

    # --------------------------------------------------------------------------------------- models

    def list_models(self) -> ModelList:
        """Return the servers' list of models; ConfigError or JobFailed if they refuse, or have
        different models."""
        return self.call(self._list_models())

    async def _list_models(self) -> ModelList:
        if len(self.servers) == 1:
            try:
                return await self.with_retries(ServerConnection.list_models, min(3, self.model.retries + 1))
            except (Fault, RequestRejected) as error:
                raise JobFailed(f"{error}. {KEPT}", code="unreachable") from None
        lists = await asyncio.gather(*map(self._list_one, self.servers))
        answered = [listed for listed in lists if isinstance(listed, ModelList)]
        if not answered:
            raise JobFailed(
                f"{next(error for error in lists if isinstance(error, Exception))}. {KEPT}",
                code="unreachable",
            )
        # what all can do: the parameters of the least able, and the room of the smallest
        return min(answered, key=lambda listed: (listed.extensions is Extensions.vllm, _room(listed)))

    async def _list_one(self, server: ServerConnection) -> ModelList | Exception:
        """Return a server's list, which must have the model; or leave it out, and return why."""
        try:
            listed = await server.list_models()
        except (Fault, RequestRejected) as error:
            server.failures += 1
            self._leave_out(server, error)
            return error
        self._check(server, listed)
        return listed

    def _check(self, server: ServerConnection, listed: ModelList) -> None:
        """Refuse a server without the model, or with another one behind its name than the others
        have."""
        model, address = self.model, server.model.base_url
        if listed.names and not listed.own:
            raise ConfigError(
                f"{address} has no such model; it has {', '.join(listed.names[:20])}",
                key=f"{model.key}.name",
                value=model.name,
                code="not_found",
            )
        self._reported = self._reported or (address, listed.reported)
        other, reported = self._reported
        if listed.reported != reported:
            differ = f"{address} reports {listed.reported}, but {other} {reported}"
            raise ConfigError(
                f"all servers must have the same model, and {differ}",
                key=f"{model.key}.base_url",
                code="mismatch",
            )

    def tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts, including special tokens; ConfigError or JobFailed if the
        servers refuse."""
        return self._told(lambda scorer: scorer.tokens_of(texts))

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; their ids where the server does not say it."""
        return self._told(lambda scorer: scorer.text_of(ids))

    def check_named(self) -> None:
        """Raise ConfigError unless the servers tell log-probabilities of tokens that are named."""
        self._told(lambda scorer: scorer.check_named())

    def _told(self, ask: Callable[[Scorer], Awaitable[T]]) -> T:
        attempt = partial(ServerConnection.asked, ask=ask)
        try:
            return self.call(self.with_retries(attempt, self.model.retries + 1))
        except (Fault, RequestRejected) as error:
            raise JobFailed(f"{error}. {KEPT}", code="failed") from None


def _room(listed: ModelList) -> float:
    """Return the longest text of a model in tokens; infinite if the server does not say it."""
    try:
        return token_count("max_model_len", listed.own.get("max_model_len"))
    except Miscounted:
        return float("inf")

"""A model on a server, without its sessions: it turns a request into the parameters of an HTTP
request."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from runner.config.root import RunnerConfig
from runner.options.remote.extended import extra_body
from runner.options.remote.faults import Miscounted
from runner.options.remote.keys import ApiConfig
from runner.options.remote.pool import ServerPool
from runner.options.remote.render.notes import NOTES
from runner.options.remote.server_text import token_count
from runner.options.remote.thinking import BudgetCounts
from runner.options.remote.thinking_budget import MARGIN
from runner.options.remote.thinking_budget import PARAMETERS as BUDGETS
from runner_base import ConfigError, RunnerError
from runner_base.notes import Note, given, note
from runner_base.render.notes import render_note
from runner_engine import Capability, EngineReport, EngineStats, Message, Request
from runner_engine.sessions import tags_of
from runner_engine.settings.sampling import PARAMETERS

MILLION = 1_000_000


class RemoteModel:
    """A model on a server; nothing is loaded here."""

    def __init__(self, config: RunnerConfig, model: ApiConfig, capabilities: frozenset[Capability]) -> None:
        self.config, self.model, self.capabilities = config, model, capabilities
        self.stats = EngineStats()
        self.retries: Counter[str] = Counter()  # requests that were sent again, by cause
        self.answers_without_usage = 0  # answers whose tokens the server did not count
        self.budgets = BudgetCounts()
        self.tags = tags_of(config.generation)
        self._servers: ServerPool | None = None

    @property
    def servers(self) -> ServerPool:
        """The connections to the servers, which all sessions share."""
        if self._servers is None:
            self._servers = ServerPool(self.model, self.retries, self.gone)
        return self._servers

    def gone(self) -> RunnerError | None:
        """Return why no request can be answered any more, if that is known here: nothing else is
        tried then."""
        return None

    def load(self) -> EngineReport:
        """Ask the servers for their models."""
        started, model = time.perf_counter(), self.model
        listed = self.servers.list_models()
        self.stats.load_s = time.perf_counter() - started
        metrics = {"load_s": self.stats.load_s}
        notes = self.doubts()
        if (room := listed.own.get("max_model_len")) is not None:
            try:
                metrics["max_positions"] = float(token_count("max_model_len", room))
            except Miscounted as fault:
                notes.append(note("room_ignored", address=model.address, fault=self.servers.plain(fault)))
        sent = {
            key: value
            for key, value in self.parameters(Request(0, "")).items()
            if key not in ("prompt", "model")
        }
        facts = {"server": model.address, "reported_model": listed.reported, "sent": json.dumps(sent)}
        return EngineReport(metrics, facts, [given(render_note(each, NOTES)) for each in notes])

    def doubts(self) -> list[Note]:
        """Return what nobody here can know of the model."""
        return [note("unhashed", "warning", address=self.model.address, name=self.model.name)]

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as it is sent; only the server knows the tokens."""
        return self._sent_prompt(request)

    def _sent_prompt(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as OpenAI's API has it: without thinking, which some servers refuse."""
        prompt = request.prompt
        if isinstance(prompt, str):
            return prompt, []
        ids = [part for part in prompt if isinstance(part, int)]
        turns = [_turn(part) for part in prompt if isinstance(part, Message)]
        return (ids, ids) if ids else (json.dumps(turns, ensure_ascii=False), [])

    def decode(self, ids: Sequence[int]) -> str:
        """Ask the server for the text of tokens."""
        return self.servers.text_of(ids)

    def arithmetic(self) -> None:
        """Nothing is known of the server's machine."""

    def close(self) -> None:
        """Close all connections."""
        if self._servers is not None:
            self._servers.close()
            self._servers = None

    def parameters(self, request: Request) -> dict[str, Any]:
        """Return the parameters to send for a request; ConfigError if the API has none for it."""
        sampling = request.sampling.over(self.config.generation, self.config.seed)
        self.model.check_fields("request", sampling)
        is_chat = Capability.chat in request.needs
        limit, budget = self.most_tokens(request), self.budget(request)
        sent: dict[str, Any] = {"model": self.model.name, "temperature": sampling.temperature}
        # OpenAI's newer models accept only this name in chats; other servers may not know it, or
        # ignore it
        is_openai = self.model.is_at("openai.com") or self.model.is_at("azure.com")
        sent["max_completion_tokens" if is_chat and is_openai else "max_tokens"] = limit
        if sampling.temperature:
            sent["seed"] = request.sampling.seed
            if sent["seed"] is None:  # as in other engines, the job's seed and the request's id decide
                digest = hashlib.sha256(f"{self.config.seed}/{request.effective_random_id}".encode()).digest()
                sent["seed"] = int.from_bytes(digest[:4]) >> 1
        sampled = {
            name: value
            for name, parameter in PARAMETERS.items()
            if (value := getattr(sampling, name)) is not None
            and (sampling.temperature or parameter.for_greedy)
        }
        sent |= {name: value for name, value in sampled.items() if PARAMETERS[name].in_openai}
        extra = extra_body(self.model.extensions, sampled, request.ignore_eos)
        if budget is not None:
            if self.model.thinking_budget is None:
                raise ConfigError(
                    f"{self.model.key}.thinking_budget is not given",
                    key="request.thinking_tokens",
                    value=budget,
                    code="missing",
                )
            extra |= BUDGETS[self.model.thinking_budget].body(budget)
        sent |= {"stop": list(request.stop)} if request.stop else {}
        sent |= {"n": request.n} if request.n > 1 else {}
        sent |= {"extra_body": extra} if extra else {}
        prompt, ids = self._sent_prompt(request)
        return sent | ({"messages": json.loads(str(prompt))} if is_chat else {"prompt": ids or prompt})

    def update_notes(self) -> None:
        """Update the notes about faults so far, and the table of the servers."""
        notes = []
        if causes := self.retries.most_common():
            notes.append(note("sent_again", requests=self.retries.total(), causes=causes))
        if self._servers is not None and (
            places := sum(server.secret.times for server in self._servers.servers)
        ):
            notes.append(note("own_key_sent", "warning", places=places))
        if number := self.answers_without_usage:
            notes.append(note("uncounted_answers", "warning", number=number))
        notes += self.budgets.notes(self.model.key)
        self.stats.notes = [given(render_note(each, NOTES)) for each in notes]
        self.stats.servers = [] if self._servers is None else self._servers.table()

    def budget(self, request: Request) -> int | None:
        if request.continuation is not None:
            return None
        own = request.thinking_tokens
        return self.config.generation.thinking_tokens if own is None else own

    def most_tokens(self, request: Request) -> int:
        """Return the most tokens of thinking and answer, which servers count together."""
        budget = self.budget(request)
        return self.limit(request) + (0 if budget is None else budget + MARGIN)

    def limit(self, request: Request) -> int:
        """Return the most tokens of an answer; of its thinking, too, if that has no budget."""
        own = request.max_new_tokens
        return self.config.generation.max_new_tokens if own is None else own

    def cost(self, prompt_tokens: int, new_tokens: int) -> float | None:
        """Return the cost of an answer in USD; None if the prices are unknown."""
        if self.model.price_in is None or self.model.price_out is None:
            return None
        return round((prompt_tokens * self.model.price_in + new_tokens * self.model.price_out) / MILLION, 9)


def _turn(message: Message) -> dict[str, Any]:
    """Return a turn of a conversation as OpenAI's API has it: the arguments of a call are a text,
    and a result has the id of its call alone."""
    turn = replace(message, thinking=None, name=None).as_dict()
    for call in turn.get("tool_calls", ()):
        function = call["function"]
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return turn

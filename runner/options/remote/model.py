"""Base class of engines for models on servers. Converts engine requests to parameters of HTTP requests."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from runner.config.root import RunnerConfig
from runner.options.remote.extra_sampling import build_extra_sampling_fields
from runner.options.remote.faults import InvalidTokenCounts
from runner.options.remote.keys import ApiConfig
from runner.options.remote.prompt_checks import PromptLengths
from runner.options.remote.render.notes import NOTES
from runner.options.remote.server_pool import ServerPool
from runner.options.remote.server_text import parse_token_count
from runner.options.remote.thinking import BudgetCounts
from runner.options.remote.thinking_budget import MARGIN
from runner.options.remote.thinking_budget import PARAMETERS as BUDGETS
from runner_base import ConfigError, RunnerError
from runner_base.notes import Note, note, text_note
from runner_base.render.notes import render_note
from runner_engine import Capability, EngineReport, EngineStats, Message, Request
from runner_engine.sessions import find_thinking_tags
from runner_engine.settings.sampling import PARAMETERS

MILLION = 1_000_000


class RemoteModel:
    """Base class of engines for a model on a server. Loads no weights on this machine."""

    def __init__(self, config: RunnerConfig, model: ApiConfig, capabilities: frozenset[Capability]) -> None:
        self.config, self.model, self.capabilities = config, model, capabilities
        self.stats = EngineStats()
        self.retries: Counter[str] = Counter()  # requests that were sent again, by cause
        self.answers_without_usage = 0  # answers whose tokens the server did not count
        self.budgets = BudgetCounts()
        self.prompt_lengths = PromptLengths()
        self.tags = find_thinking_tags(config.generation)
        self._servers: ServerPool | None = None

    @property
    def servers(self) -> ServerPool:
        if self._servers is None:
            self._servers = ServerPool(self.model, self.retries, self.failure)
        return self._servers

    def failure(self) -> RunnerError | None:
        """Return an error if the server cannot answer further requests, otherwise None."""
        return None

    def load(self) -> EngineReport:
        """Fetch each server's list of models."""
        started, model = time.perf_counter(), self.model
        listed = self.servers.list_models()
        self.stats.load_s = time.perf_counter() - started
        metrics = {"load_s": self.stats.load_s}
        notes = self.provenance_notes()
        if (room := listed.own.get("max_model_len")) is not None:
            try:
                metrics["max_positions"] = float(parse_token_count("max_model_len", room))
            except InvalidTokenCounts as fault:
                notes.append(
                    note(
                        "room_ignored",
                        address=model.joined_addresses,
                        fault=self.servers.redact_message(fault),
                    )
                )
        sent = {
            key: value
            for key, value in self.build_request_parameters(Request(0, "")).items()
            if key not in ("prompt", "model")
        }
        facts = {
            "server": model.joined_addresses,
            "reported_model": listed.reported,
            "sent": json.dumps(sent),
        }
        return EngineReport(metrics, facts, [text_note(render_note(each, NOTES)) for each in notes])

    def provenance_notes(self) -> list[Note]:
        """Return warnings about an uncertain model identity, for example because the model's files cannot
        be hashed.
        """
        return [note("unhashed", "warning", address=self.model.joined_addresses, name=self.model.name)]

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt to send to the server. The list of token ids is always empty."""
        return self._format_prompt(request)

    def _format_prompt(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt in OpenAI's format, without the thinking of earlier answers, which some
        servers reject.
        """
        prompt = request.prompt
        if isinstance(prompt, str):
            return prompt, []
        ids = [part for part in prompt if isinstance(part, int)]
        turns = [_to_openai_message(part) for part in prompt if isinstance(part, Message)]
        return (ids, ids) if ids else (json.dumps(turns, ensure_ascii=False), [])

    def decode(self, ids: Sequence[int]) -> str:
        """Convert token ids to text with the server's tokenizer."""
        return self.servers.detokenize(ids)

    def arithmetic(self) -> None:
        """Return None, because a server does not report its FLOP and bytes per token."""

    def close(self) -> None:
        """Close all connections."""
        if self._servers is not None:
            self._servers.close()
            self._servers = None

    def build_request_parameters(self, request: Request) -> dict[str, Any]:
        """Convert a request to HTTP parameters. Raises ConfigError for a parameter that the server's API
        does not support.
        """
        sampling = request.sampling.fill_unset_sampling_parameters(self.config.generation, self.config.seed)
        self.model.check_sampling_fields("request", sampling)
        is_chat = Capability.chat in request.required_capabilities
        limit, budget = self.get_max_total_tokens(request), self.thinking_budget(request)
        sent: dict[str, Any] = {"model": self.model.name, "temperature": sampling.temperature}
        # OpenAI's newer models accept only this name in chats; other servers may not know it, or
        # ignore it
        is_openai = self.model.is_hosted_at("openai.com") or self.model.is_hosted_at("azure.com")
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
        extra = build_extra_sampling_fields(self.model.extensions, sampled, request.ignore_eos)
        if budget is not None:
            if self.model.thinking_budget_dialect is None:
                raise ConfigError(
                    f"{self.model.key}.thinking_budget_dialect is not given",
                    key="request.thinking_tokens",
                    value=budget,
                    code="missing",
                )
            extra |= BUDGETS[self.model.thinking_budget_dialect].body(budget)
        sent |= {"stop": list(request.stop)} if request.stop else {}
        sent |= {"n": request.n} if request.n > 1 else {}
        sent |= {"extra_body": extra} if extra else {}
        prompt, ids = self._format_prompt(request)
        return sent | ({"messages": json.loads(str(prompt))} if is_chat else {"prompt": ids or prompt})

    def update_server_stats_and_warnings(self) -> None:
        notes = []
        if causes := self.retries.most_common():
            notes.append(note("sent_again", requests=self.retries.total(), causes=causes))
        if self._servers is not None and (
            places := sum(server.secret.times for server in self._servers.servers)
        ):
            notes.append(note("own_key_sent", "warning", places=places))
        if number := self.answers_without_usage:
            notes.append(note("uncounted_answers", "warning", number=number))
        notes += self.budgets.make_notes(self.model.key)
        notes += self.prompt_lengths.make_notes(self.model.joined_addresses)
        self.stats.notes = [text_note(render_note(each, NOTES)) for each in notes]
        self.stats.servers = [] if self._servers is None else self._servers.collect_server_statistics()

    def check_answer(self, request: Request, prompt_tokens: int) -> str | None:
        """Return an error if the server has not read a request's prompt as it was sent, otherwise None."""
        self.prompt_lengths.update_longest_prompts(request, prompt_tokens)
        return None

    def thinking_budget(self, request: Request) -> int | None:
        if request.continuation is not None:
            return None
        own = request.thinking_tokens
        return self.config.generation.thinking_tokens if own is None else own

    def get_max_total_tokens(self, request: Request) -> int:
        """Return the sum of thinking budget and answer budget, because servers accept only one limit."""
        budget = self.thinking_budget(request)
        return self.get_max_answer_tokens(request) + (0 if budget is None else budget + MARGIN)

    def get_max_answer_tokens(self, request: Request) -> int:
        """Return the token budget for the answer. It includes thinking if thinking has no own budget."""
        own = request.max_new_tokens
        return self.config.generation.max_new_tokens if own is None else own

    def cost_usd(self, prompt_tokens: int, new_tokens: int) -> float | None:
        """Return the cost of an answer in US dollars, or None if no prices are configured."""
        if self.model.price_in is None or self.model.price_out is None:
            return None
        return round((prompt_tokens * self.model.price_in + new_tokens * self.model.price_out) / MILLION, 9)


def _to_openai_message(message: Message) -> dict[str, Any]:
    """Convert a chat message to OpenAI's format, with tool call arguments as JSON text."""
    turn = replace(message, thinking=None, name=None).to_dict()
    for call in turn.get("tool_calls", ()):
        function = call["function"]
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return turn

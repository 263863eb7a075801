"""Detects that a server has changed its model, by fixed prompts.

A server answers the prompts greedily. Recorded are the prompt tokens that it counts, the tokens of
its answers and their log-probabilities. The first job asks twice, so that the record has the
server's own rounding noise. A later job compares its answers with the record.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import openai

from runner.options.remote.server_connection import ServerConnection
from runner.options.remote.server_pool import ServerPool
from runner.options.remote.server_text import parse_token_count

log = logging.getLogger(__name__)
FACT = "server_probe"  # of a job's record
PROMPTS = ("Name three rivers of Europe.", "Once upon a time,", "17 × 23 − 4.5 = ? “naïve café”, 中文")
NEW_TOKENS = 8
MAX_CHARACTERS = 200  # of an answer's text
MIN_GAP = 0.05  # nats per token: smaller gaps may come from other requests in the batch
ROUNDINGS = 4.0  # how many times larger than the measured noise a gap must be
UNSUPPORTED = (400, 404, 405, 422, 501)
FRESH_S = 10.0  # the jobs of a grid ask once
_probes: dict[tuple[str, str, bool], tuple[float, ServerProbe | None]] = {}


@dataclass(frozen=True)
class ProbeAnswer:
    """A server's greedy answer to a fixed prompt."""

    prompt_tokens: int
    text: str
    tokens: tuple[str, ...] = ()  # empty: the server does not report log-probabilities
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class ServerProbe:
    """A server's answers to the fixed prompts, and how much they change when they are asked again."""

    answers: tuple[ProbeAnswer, ...]
    noise: float | None = None  # nats per token; None: unknown

    def to_fact(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_fact(cls, fact: str) -> ServerProbe | None:
        """Parse a recorded fact. None if there is none, or if another version wrote it."""
        try:
            values = json.loads(fact)
            answers = [
                ProbeAnswer(**each | {"tokens": (*each["tokens"],), "logprobs": (*each["logprobs"],)})
                for each in values["answers"]
            ]
            return cls((*answers,), values["noise"])
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class ProbeDifference:
    """Difference between a recorded probe and a new one."""

    prompt_tokens: tuple[tuple[int, int], ...]  # counts that differ: recorded, and now
    gap: float | None  # nats per token; None: unknown
    max_gap: float  # that noise explains
    changed_texts: int

    @property
    def is_other_model(self) -> bool:
        """Whether the server's model, tokenizer or chat template has changed since the recorded probe."""
        return bool(self.prompt_tokens) or (self.gap is not None and self.gap > self.max_gap)


def compare_probes(recorded: ServerProbe, current: ServerProbe) -> ProbeDifference:
    pairs = [*zip(recorded.answers, current.answers, strict=False)]
    counts = {(old.prompt_tokens, new.prompt_tokens) for old, new in pairs}
    return ProbeDifference(
        tuple(sorted(pair for pair in counts if pair[0] != pair[1])),
        _compute_mean_logprob_gap(recorded.answers, current.answers),
        max(ROUNDINGS * (recorded.noise or 0.0), MIN_GAP),
        sum(old.text != new.text for old, new in pairs),
    )


def probe_server(servers: ServerPool, is_chat: bool, is_repeated: bool = False) -> ServerProbe | None:
    """Ask a server the fixed prompts. None if the server does not answer them as OpenAI's API does.

    `is_repeated` asks twice, to measure the noise.
    """
    key = servers.model.joined_addresses, servers.model.name, is_chat
    known = _probes.get(key)
    if known is not None and time.monotonic() - known[0] < FRESH_S and not is_repeated:
        return known[1]
    try:
        answers, *again = [
            servers.run(servers.run_with_retries(lambda server: _ask_all(server, is_chat), 1))
            for _ in range(1 + is_repeated)
        ]
    except Exception as error:  # noqa: BLE001 - whatever a server may send
        log.info("%s was not probed: %s", servers.model.base_url, servers.redact_message(error))
        return None
    noise = _compute_mean_logprob_gap(answers, again[0]) if again else None
    probe = ServerProbe(answers, noise)
    _probes[key] = time.monotonic(), probe
    return probe


async def _ask_all(server: ServerConnection, is_chat: bool) -> tuple[ProbeAnswer, ...]:
    async with asyncio.timeout(server.model.first_token_timeout_s):
        first = await _request_probe_answer(server, PROMPTS[0], is_chat)
        others = (_request_probe_answer(server, prompt, is_chat) for prompt in PROMPTS[1:])
        return (first, *await asyncio.gather(*others))


async def _request_probe_answer(server: ServerConnection, prompt: str, is_chat: bool) -> ProbeAnswer:
    """Ask for a greedy answer with log-probabilities, or without them if the server has none."""
    model = server.model
    is_openai = model.is_hosted_at("openai.com") or model.is_hosted_at("azure.com")
    limit = "max_completion_tokens" if is_chat and is_openai else "max_tokens"
    body: dict[str, Any] = {"model": model.name, "temperature": 0, limit: NEW_TOKENS, "stream": False}
    body |= {"messages": [{"role": "user", "content": prompt}]} if is_chat else {"prompt": prompt}
    path = "/chat/completions" if is_chat else "/completions"
    try:
        scored = body | {"logprobs": True if is_chat else 1}
        return _parse_answer(server, await server.client.post(path, body=scored, cast_to=object), is_chat)
    except openai.APIStatusError as error:
        if error.status_code not in UNSUPPORTED:
            raise
    return _parse_answer(server, await server.client.post(path, body=body, cast_to=object), is_chat)


def _parse_answer(server: ServerConnection, response: Any, is_chat: bool) -> ProbeAnswer:
    """Parse a response. Raises ValueError for one that OpenAI's API does not define."""
    try:
        choice, count = response["choices"][0], parse_token_count("", response["usage"]["prompt_tokens"])
        text = (choice["message"].get("content") or "") if is_chat else choice["text"]
        scores = choice.get("logprobs") or {}
        if is_chat:
            entries = scores.get("content") or []
            tokens, logprobs = (
                [entry[key] for entry in entries[:NEW_TOKENS]] for key in ("token", "logprob")
            )
        else:
            tokens, logprobs = ((scores.get(key) or [])[:NEW_TOKENS] for key in ("tokens", "token_logprobs"))
        values = tuple(round(min(float(value), 0.0), 4) for value in logprobs)
        if len(tokens) != len(values) or not all(map(math.isfinite, values)):
            tokens, values = [], ()
        return ProbeAnswer(
            count, server.plain(text)[:MAX_CHARACTERS], tuple(map(server.plain, tokens)), values
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError("the response lacks a field") from error


def _compute_mean_logprob_gap(answers: Sequence[ProbeAnswer], others: Sequence[ProbeAnswer]) -> float | None:
    """Return the mean difference between log-probabilities, up to the first different token of each answer."""
    gaps: list[float] = []
    for answer, other in zip(answers, others, strict=False):
        rows = (answer.tokens, answer.logprobs, other.tokens, other.logprobs)
        for token, logprob, other_token, other_logprob in zip(*rows, strict=False):
            if token != other_token:
                gaps.append(_compute_min_logprob_gap(logprob, other_logprob))
                break
            gaps.append(abs(logprob - other_logprob))
    return math.fsum(gaps) / len(gaps) if gaps else None


def _compute_min_logprob_gap(logprob: float, other_logprob: float) -> float:
    """Return the smallest possible change of log-probability that lets another token win."""

    def max_logprob_of_loser(winner: float) -> float:
        return min(winner, math.log(max(-math.expm1(winner), 1e-9)))

    gaps = logprob - max_logprob_of_loser(other_logprob), other_logprob - max_logprob_of_loser(logprob)
    return max(*gaps, 0.0)

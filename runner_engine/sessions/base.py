"""Data exchanged between engines and their callers: requests, events, and reports on loaded models.

session.py defines the sessions that take requests; contract.py defines engines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from runner_base import ConfigError, check_value
from runner_base.errors import Code
from runner_base.notes import Note
from runner_base.result import Response
from runner_base.thinking import find_open_tag
from runner_engine.settings.sampling import OPEN, Sampling, is_number_of_type


class Capability(StrEnum):
    """A feature that an engine may support in addition to text completion."""

    token_ids = "prompts of token ids"
    chat = "chat prompts"
    branches = "branches"
    deltas = "text as it comes"
    logprobs = "log-probabilities of a continuation"
    distributions = "whole distributions of a continuation"
    token_scores = "log-probabilities of given tokens"
    drawn_tokens = "tokens drawn from whole distributions"
    several = "several completions of one prompt"
    sampling = "sampling per request"
    fixed_length = "answers of a fixed length"
    own_memory = "memory on this machine"
    tokenizer = "a tokenizer on this machine"
    grammar = "answers constrained by a grammar"
    continuing = "continuing an unfinished answer"
    thinking_budget = "a budget for thinking"
    tools = "functions in the chat template"
    adapters = "a different adapter for each request"


class MissingCapability(ConfigError):
    """Raised if an engine lacks required capabilities."""

    def __init__(self, subject: str, missing: list[Capability], offered: Iterable[Capability]) -> None:
        self.missing = missing
        names = ", ".join(sorted(offered)) or "none of these"
        super().__init__(
            f"{subject} needs {', '.join(missing)}, which this engine does not support. It supports {names}",
            code="unsupported",
        )


def require_capabilities(offered: frozenset[Capability], subject: str, needed: Iterable[Capability]) -> None:
    """Raise MissingCapability unless an engine offers all needed capabilities."""
    if missing := sorted(set(needed) - offered):
        raise MissingCapability(subject, missing, offered)


@dataclass(frozen=True)
class Message:
    """One message (turn) of a conversation."""

    role: str  # system, user, assistant or tool
    content: str
    thinking: str | None = (
        None  # of the assistant, before this content; None: there was none, or it is not known
    )
    calls: str = "[]"  # the assistant's `tool_calls`, as JSON; arguments are objects
    call_id: str | None = None  # of the role tool: the call whose result this is
    name: str | None = None  # and the function that was called; None: no earlier turn tells it

    def to_dict(self) -> dict[str, Any]:
        """Return the message in the format of chat templates and files.

        The chat template decides which thinking it uses.

        Blank lines between thinking and content are dropped, as in templates that split a text.
        """
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.thinking is not None:
            turn |= {"content": self.content.lstrip("\n"), "reasoning_content": self.thinking}
        if calls := json.loads(self.calls):
            turn["tool_calls"] = calls
        if self.call_id is not None:
            turn |= {"tool_call_id": self.call_id} | ({"name": self.name} if self.name else {})
        return turn

    @staticmethod
    def from_tool_schemas(schemas: Iterable[Mapping[str, Any]]) -> Message:
        """Create the first message of a chat, which lists the tools.

        Each schema has name, description and parameters (JSON schema).
        """
        return OfferedTools.from_schemas(schemas)


@dataclass(frozen=True)
class OfferedTools(Message):
    """First message of a chat in which the model can call tools.

    Chat templates receive it separately from the other messages.
    """

    @classmethod
    def from_schemas(cls, schemas: Iterable[Mapping[str, Any]]) -> OfferedTools:
        """Create the message that lists these tools.

        Each schema has name, description and parameters (JSON schema).
        """
        tools = [{"type": "function", "function": dict(schema)} for schema in schemas]
        return cls("tools", json.dumps(tools, ensure_ascii=False))

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools that the model may call, in the format of chat templates."""
        tools: list[dict[str, Any]] = json.loads(self.content)
        return tools


class NoChatTemplate(ConfigError):
    """Raised if the model has no chat template."""


Prompt = str | tuple[Message, ...] | tuple[int, ...]  # raw text, a chat, or token ids as they are


def prompt_sha256(prompt: str | Sequence[int]) -> str:
    """Return the SHA-256 hash of a prompt after the chat template (text or token ids)."""
    text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
    return hashlib.sha256(text.encode()).hexdigest()


def request_sha256(prompt: str | Sequence[int], request: Request) -> str:
    """Return the SHA-256 hash of a request's prompt and branches, after the chat template."""
    return prompt_sha256(
        json.dumps([prompt, request.branches], ensure_ascii=False) if request.branches else prompt
    )


def check_scorable_prompt(prompt: Prompt, rendered_prompt: object) -> None:
    """Raise ConfigError if the chat template ends the prompt with an open thinking block.

    A scored continuation would count as thinking, not as the answer.
    """
    tag = None if isinstance(prompt, str) else find_open_tag(rendered_prompt)
    if tag is not None:
        raise ConfigError(
            f"the chat template ends in {tag.opening}, so a given text would be scored as a thought and not as an "
            "answer: set model.chat_template_kwargs.enable_thinking=false if the template reads it, or leave the "
            "template out (task=likelihood: task.prompt=text)",
            code="unsupported",
        )


RequestId = int | str


@dataclass(frozen=True)
class PartialAnswers:
    """Token ids of an interrupted request's unfinished answers, one tuple per choice.

    Valid only for the same prompt.
    """

    prompt_sha256: str
    tokens: tuple[tuple[int, ...], ...]

    def get_stored_choice_tokens(self, prompt_sha256: str, num_choices: int) -> Sequence[tuple[int, ...]]:
        """Return the stored tokens of each choice if the hash of the prompt matches.

        Otherwise returns empty tuples.
        """
        is_same = prompt_sha256 == self.prompt_sha256 and len(self.tokens) == num_choices
        return self.tokens if is_same else [()] * num_choices


@dataclass(frozen=True)
class Request:
    """One prompt to complete.

    `id` identifies the request in completions. Together with the seed, it determines random numbers.

    With branches, each text follows the prompt in its own branch, and each branch is
    completed. Limit and stop strings apply to each of them. With a continuation, nothing is
    generated: the completion contains the log-probability of each of its tokens. An engine
    that cannot serve the request raises ConfigError.
    """

    id: RequestId
    prompt: Prompt
    stop: tuple[str, ...] = ()  # the text is cut before the first of these
    max_new_tokens: int | None = None  # None: the generation group's
    ignore_eos: bool = False  # continue to max_new_tokens after an end token, for benchmarks
    branches: tuple[str, ...] = ()
    keep: bool = False  # keep the KV cache: a later prompt will begin with this one and its answer
    recurring: bool = False  # keep the KV cache in the prompt cache: later prompts may begin like this one
    sampling: Sampling = OPEN
    n: int = 1  # completions of the prompt, each with its own random numbers
    deltas: bool = False  # return text as it is generated, not only at the end
    timed: bool = False  # note when each token came out; other engines may return several at once otherwise
    # the answer, behind the thinking that the prompt has begun, is of this grammar:
    # runner_engine/grammars/grammar_cache.py says how one is written; None: it is free
    grammar: str | None = None
    is_raw: bool = False  # the text is the answer as it was written, with the tags of its thinking
    continuation: str | tuple[int, ...] | None = None
    top_logprobs: int = (
        0  # for each token of the continuation: how many of the most probable tokens to return
    )
    drawn_tokens: int = 0  # and how many of all others to draw, each by its probability among them
    # for each token of the continuation: further token ids to score in its place, the same number
    # for each
    score_token_ids: Sequence[Sequence[int]] = ()
    # gets the whole distribution before each token of the continuation: (first position,
    # log-probabilities [n, V] as a tensor), several positions at a time and in order, in the thread
    # that steps. A row that is set back begins again with position 0
    on_logprobs: Callable[[int, Any], None] | None = None
    random_id: RequestId | None = None  # replaces the id in the random numbers; None: the id
    begun: PartialAnswers | None = (
        None  # the answer goes on from there; limit, stop texts and random numbers count all of it
    )
    thinking_tokens: int | None = None  # the budget of its thinking; None: the generation group's
    is_guessed: bool = True  # tokens of it may be guessed, as generation.speculate says
    adapter: str | None = None  # the name of the adapter that computes it; None: the base

    @property
    def effective_random_id(self) -> RequestId:
        """Request id that seeds the random numbers, together with the seed and the choice index."""
        return self.id if self.random_id is None else self.random_id

    @property
    def has_tools(self) -> bool:
        """Whether the prompt is a chat with tools.

        The answer to such a chat keeps the special tokens of tool calls.
        """
        return (
            isinstance(self.prompt, tuple) and bool(self.prompt) and isinstance(self.prompt[0], OfferedTools)
        )

    @property
    def required_capabilities(self) -> frozenset[Capability]:
        """Capabilities that the request needs from an engine."""
        is_ids = isinstance(self.prompt, tuple) and all(isinstance(part, int) for part in self.prompt)
        needs = {
            Capability.token_ids: is_ids,
            Capability.chat: not is_ids and not isinstance(self.prompt, str),
            Capability.branches: bool(self.branches),
            Capability.deltas: self.deltas,
            Capability.logprobs: self.continuation is not None,
            Capability.distributions: self.on_logprobs is not None,
            Capability.token_scores: bool(self.top_logprobs or self.score_token_ids),
            Capability.drawn_tokens: bool(self.drawn_tokens),
            Capability.several: self.n > 1,
            Capability.sampling: self.sampling != Sampling(),
            Capability.fixed_length: self.ignore_eos,
            Capability.grammar: self.grammar is not None,
            Capability.continuing: self.begun is not None,
            Capability.thinking_budget: self.thinking_tokens is not None,
            Capability.tools: self.has_tools,
            Capability.adapters: self.adapter is not None,
        }
        return frozenset(capability for capability, is_needed in needs.items() if is_needed)

    def __post_init__(self) -> None:
        limit, top = self.max_new_tokens, self.top_logprobs
        check_value(is_number_of_type(self.n, int) and self.n >= 1, "request.n", self.n, "must be 1 or more")
        ok = limit is None or (is_number_of_type(limit, int) and limit >= 1)
        check_value(
            ok, "request.max_new_tokens", limit, "must be 1 or more, or None to use the config's value"
        )
        budget = self.thinking_tokens
        ok = budget is None or (is_number_of_type(budget, int) and budget >= 0)
        check_value(
            ok, "request.thinking_tokens", budget, "must be 0 or more, or None to use the config's value"
        )
        need = "requires a continuation" if self.continuation is None else "must be 0 or more"
        scores, others = self.continuation is not None, self.score_token_ids
        code: Code = "bad_value" if scores else "missing"
        check_value(top == 0 or (top > 0 and scores), "request.top_logprobs", top, need, code)
        is_possible = self.drawn_tokens == 0 or (self.drawn_tokens > 0 and top > 0)
        check_value(
            is_possible, "request.drawn_tokens", self.drawn_tokens, "requires top_logprobs", "missing"
        )
        check_value(not others or scores, "request.score_token_ids", len(others), need, "missing")
        check_value(self.on_logprobs is None or scores, "request.on_logprobs", "a listener", need, "missing")
        modes = {
            "branches": bool(self.branches),
            "continuation": self.continuation is not None,
            "n": self.n > 1,
        }
        requested = [name for name, is_requested in modes.items() if is_requested]
        if len(requested) > 1:
            raise ConfigError(
                f"{' and '.join(requested)} cannot be combined", key=f"request {self.id}", code="conflict"
            )
        if self.grammar is not None:
            need = "cannot be combined with branches, continuation, begun or ignore_eos"
            is_part = bool(self.branches) or self.continuation is not None or self.begun is not None
            is_whole = not (is_part or self.ignore_eos)
            check_value(is_whole, "request.grammar", self.grammar[:60], need, "conflict")


@dataclass(frozen=True)
class Delta:
    """New text of a running completion, in thinking or answer, without thinking tags."""

    id: RequestId
    choice: int
    text: str
    thinking: bool = False  # whether it belongs to the thinking


@dataclass
class Completion(Response):
    """Result of a request with one choice, or of one of the n choices of a request.

    The text contains no stop string and no special tokens.

    For a request with branches, `branches` contains their texts in order, and the answer's
    text is empty. For a request with a continuation, the answer's `token_ids` are its tokens.
    `logprobs` (natural logarithms) and `greedy` (whether the token is the most probable one)
    have one entry per token. `top_logprobs` lists for each token the most probable tokens at
    its position, in descending order, each with its log-probability. `drawn_logprobs` lists
    tokens drawn from all others, each with its log-probability. `score_token_logprobs` has
    the log-probabilities of the request's `score_token_ids`, and `min_logprobs` that of the
    least probable token at each position; None where an engine does not know it. If tokens
    are only counted, as from a server, the answer's `token_ids` is empty and its `new_tokens`
    is their number. `seconds` count from the start of the request's batch to its last token.
    """

    id: RequestId
    first_token_s: float  # from the start of its batch to its first token
    choice: int = 0  # 0 … n-1
    logprobs: list[float] | None = None
    greedy: list[bool] | None = None
    top_logprobs: list[list[tuple[int, float]]] | None = None
    drawn_logprobs: list[list[tuple[int, float]]] | None = None
    score_token_logprobs: list[list[float]] | None = None
    min_logprobs: list[float] | None = None
    # time.perf_counter() of each token, or of each piece of text if tokens are not visible; None:
    # unknown
    token_times: list[float] | None = None


Event = Delta | Completion


@dataclass
class EngineReport:
    """Report on a loaded model: numbers in `metrics` and texts in `facts`."""

    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    # one line per part, if the model is split
    parts: list[dict[str, Any]] = field(default_factory=list)
    bos_token: int | None = (
        None  # the token that begins a text; None: there is none, or the tokenizer is not here
    )
    has_chat_template: bool | None = None  # None: unknown

"""The contract that every task is written against: open a session, submit requests, step, read the events.

What a session is stands in session.py. `gather` steps one until its requests have ended; `complete` is the shortest way
from a list of requests to their completions.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from runner.config.sampling import OPEN, Sampling
from runner.core.errors import ConfigError, check, check_least
from runner.core.result import BranchText, Call, Counted, FinishReason
from runner.engines.stats import EngineStats

if TYPE_CHECKING:
    from runner.engines.arithmetic import Arithmetic
    from runner.engines.session import Session


class Capability(StrEnum):
    """What an engine may be able to do, beyond completing a text."""

    token_ids = "prompts of token ids"
    chat = "chat prompts"
    branches = "branches"
    deltas = "text as it comes"
    logprobs = "log-probabilities of a continuation"
    distributions = "whole distributions of a continuation"
    several = "several completions of one prompt"
    sampling = "sampling per request"
    fixed_length = "answers of a fixed length"
    own_memory = "memory on this machine"
    tokenizer = "a tokenizer on this machine"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str  # system, user or assistant
    content: str


class NoChatTemplate(ConfigError):
    """The model cannot be asked as a chat."""


MEMORY_RAN_OUT = "memory ran out"  # so begins the note of an engine that has gone on with fewer rows at once
MEMORY_IS_SHORT = "memory has room for"  # and of one that begins with fewer than it was asked for
FEWER_ROWS = (MEMORY_RAN_OUT, MEMORY_IS_SHORT)
Prompt = str | tuple[Message, ...] | tuple[int, ...]  # raw text, a chat, or token ids as they are


def prompt_sha256(prompt: str | Sequence[int]) -> str:
    """Fingerprint of a prompt as the model saw it: text, or token ids."""
    text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
    return hashlib.sha256(text.encode()).hexdigest()


def request_sha256(seen: str | Sequence[int], request: Request) -> str:
    """Fingerprint of all that a request puts to the model: the prompt as it saw it, with its branches."""
    return prompt_sha256(json.dumps([seen, request.branches], ensure_ascii=False) if request.branches else seen)


RequestId = int | str


@dataclass(frozen=True)
class Request:
    """One prompt to complete. `id` names it in the answer and, with the seed, decides its random numbers.

    With branches, each of these texts follows the prompt in a branch of its own, and what is asked for is how each
    goes on: the limit and the stop strings count for each. With a continuation, nothing is generated: the completion
    says how probable each token of the continuation is. An engine that cannot do what is asked raises ConfigError.
    """

    id: RequestId
    prompt: Prompt
    stop: tuple[str, ...] = ()  # the text is cut before the first of these
    max_new_tokens: int | None = None  # None: the generation group's
    ignore_eos: bool = False  # benchmarks: go on to max_new_tokens whatever comes
    branches: tuple[str, ...] = ()
    keep: bool = False  # a later prompt will go on from this one and its answer: what was computed is kept for it
    recurring: bool = False  # prompts that begin like this one may come later: what was computed is kept for them
    sampling: Sampling = OPEN
    n: int = 1  # completions of the prompt, each with random numbers of its own
    deltas: bool = False  # text is wanted as it comes, not only at the end
    continuation: str | tuple[int, ...] | None = None
    top_logprobs: int = 0  # for each token of the continuation: how many of the most probable tokens to return
    # for each token of the continuation: further token ids to score in its place, the same number for each
    score_token_ids: Sequence[Sequence[int]] = ()
    # gets the whole distribution before each token of the continuation: (first position, log-probabilities [n, V] as a
    # tensor), several positions at a time and in order, in the thread that steps. A row that is set back begins again
    # with position 0
    on_logprobs: Callable[[int, Any], None] | None = None
    draws: RequestId | None = None  # stands for the id in the random numbers: equal ones draw the same; None: the id

    @property
    def drawn_by(self) -> RequestId:
        """What decides its random numbers, with the seed and the choice."""
        return self.id if self.draws is None else self.draws

    @property
    def needs(self) -> frozenset[Capability]:
        """What an engine must be able to do for it."""
        is_ids = isinstance(self.prompt, tuple) and all(isinstance(part, int) for part in self.prompt)
        asked = {
            Capability.token_ids: is_ids,
            Capability.chat: not is_ids and not isinstance(self.prompt, str),
            Capability.branches: bool(self.branches),
            Capability.deltas: self.deltas,
            Capability.logprobs: self.continuation is not None,
            Capability.distributions: self.on_logprobs is not None,
            Capability.tokenizer: bool(self.top_logprobs or self.score_token_ids),  # other tokens are told by their ids
            Capability.several: self.n > 1,
            Capability.sampling: self.sampling != Sampling(),
            Capability.fixed_length: self.ignore_eos,
        }
        return frozenset(capability for capability, is_asked in asked.items() if is_asked)

    def __post_init__(self) -> None:
        check(self.n >= 1, "request.n", self.n, "must be 1 or more")
        check_least(1, "request.max_new_tokens", self.max_new_tokens, ", or none for the generation group's")
        need = "goes with a continuation" if self.continuation is None else "must be 0 or more"
        scores, top, others = self.continuation is not None, self.top_logprobs, self.score_token_ids
        check(top == 0 or (top > 0 and scores), "request.top_logprobs", top, need)
        check(not others or scores, "request.score_token_ids", len(others), need)
        check(self.on_logprobs is None or scores, "request.on_logprobs", "a listener", need)
        asked = {"branches": bool(self.branches), "continuation": self.continuation is not None, "n": self.n > 1}
        several = [name for name, is_asked in asked.items() if is_asked]
        if len(several) > 1:
            raise ConfigError(f"request {self.id}: {' and '.join(several)} cannot be asked for together")


@dataclass(frozen=True)
class Delta:
    """New text of a completion that is under way; all of them together are the completion's text."""

    id: RequestId
    choice: int
    text: str


@dataclass
class Completion(Counted):
    """What became of a request, or of one of its n choices; `text` holds neither the stop string nor special tokens.

    Where branches were asked for, they stand in `branches`, in their order, and the completion itself says nothing.
    Where a continuation was to be scored, `token_ids` are its tokens, with one number for each in `logprobs`
    (natural logarithms) and `greedy` (whether it is the most probable one). `top_logprobs`
    has a list for each token: the most probable tokens in its place, in descending order, each with its logarithm.
    `score_token_logprobs` has the logarithms of the request's `score_token_ids`, and `min_logprobs` that of the least
    probable token in each place. If the tokens of the text are only counted and not known, as from a server,
    `token_ids` is empty and `new_tokens` is their number.
    """

    id: RequestId
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_sha256: str
    prompt_tokens: int
    first_token_s: float  # from the start of its batch to its first token
    seconds: float  # from the start of its batch to its last token
    error: str | None = None
    permanent: bool = False  # the error: it lies in the request and the model, and comes back however often one asks
    branches: list[BranchText] | None = None
    choice: int = 0  # 0 … n-1
    logprobs: list[float] | None = None
    greedy: list[bool] | None = None
    new_tokens: int | None = None  # None: as many as token_ids
    by: str | None = None  # who gave the answer, where that can be one of several
    cost_usd: float | None = None
    calls: list[Call] | None = None  # behind an answer that took more than one
    top_logprobs: list[list[tuple[int, float]]] | None = None
    score_token_logprobs: list[list[float]] | None = None
    min_logprobs: list[float] | None = None
    # time.perf_counter() when each token came out, or each piece of text where tokens are not seen; None: not known
    token_times: list[float] | None = None


Event = Delta | Completion


@dataclass
class EngineReport:
    """What was really loaded: numbers go to the metrics, words to the facts."""

    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)  # one line per part, where the model comes in parts
    bos_token: int | None = None  # the token that begins a text, where the tokenizer is here and has one
    has_chat_template: bool | None = None  # None: that is not known here


class Engine(Protocol):
    """A model that completes prompts. It loads when a session is opened, or when `load` is called."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do; known before anything is loaded."""

    @property
    def stats(self) -> EngineStats:
        """Totals so far."""

    def load(self) -> EngineReport:
        """Load if that has not happened, and say what was loaded."""

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as the model sees it (text, or ids as given) and its token ids."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids as it stands amid others, special tokens too."""

    def open(self, batch_size: int | None = None) -> Session:
        """Open a session for requests; batch_size = the most rows at once, None = the generation group's."""

    def arithmetic(self) -> Arithmetic | None:
        """Return what the loaded model computes and reads, and how this machine's rates are measured; None: unknown."""

    def close(self) -> None:
        """Let go of the weights."""


def require(engine: Engine, what: str, capabilities: Iterable[Capability]) -> None:
    """Raise ConfigError unless the engine can do what is needed; tasks ask before anything is loaded."""
    require_among(engine.capabilities, what, capabilities)


def require_among(offered: frozenset[Capability], what: str, capabilities: Iterable[Capability]) -> None:
    """Raise ConfigError unless what is needed is among what an engine would offer."""
    missing = sorted(set(capabilities) - offered)
    if missing:
        there = ", ".join(sorted(offered)) or "nothing of the kind"
        raise ConfigError(f"{what} needs {', '.join(missing)}, which this engine does not offer: it has {there}")


Listener = Callable[[list[Event]], bool | None]


def gather(
    session: Session, requests: Iterable[Request], listener: Listener, ahead: Callable[[int], int] | None = None
) -> None:
    """Submit requests and step the session until nothing is under way, or the listener answers False.

    The listener gets the events of each step, also when there are none. It may submit further requests and cancel any.
    `ahead` says how many requests may be under way when so many have ended, for a caller that may not need all of
    them; None: all go in at once.
    """
    coming, submitted = deque(requests), 0
    while True:
        room = len(coming) if ahead is None else ahead(submitted - session.under_way) - session.under_way
        for _ in range(min(room, len(coming))):
            session.submit(coming.popleft())
            submitted += 1
        if session.idle or listener(session.step()) is False:
            return


def complete(
    engine: Engine, requests: Iterable[Request], batch_size: int | None = None, listener: Listener | None = None
) -> list[Completion]:
    """Return all completions of requests, in the order in which they ended, from a session of their own."""
    done: list[Completion] = []

    def listen(events: list[Event]) -> bool | None:
        done.extend(event for event in events if isinstance(event, Completion))
        return None if listener is None else listener(events)

    with engine.open(batch_size) as session:
        gather(session, requests, listen)
    return done

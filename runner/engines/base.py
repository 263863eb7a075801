"""The one protocol that every task is written against: requests in, completions out, in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

from runner.core.result import BranchText, FinishReason


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str  # system, user or assistant
    content: str


MEMORY_RAN_OUT = "memory ran out"  # so begins the note of an engine that has gone on with fewer rows at once
MEMORY_IS_SHORT = "memory has room for"  # and of one that begins with fewer than it was asked for
FEWER_ROWS = (MEMORY_RAN_OUT, MEMORY_IS_SHORT)
Prompt = str | tuple[Message, ...] | tuple[int, ...]  # raw text, a chat, or token ids as they are


def prompt_sha256(prompt: str | Sequence[int]) -> str:
    """Fingerprint of a prompt as the model saw it: text, or token ids."""
    text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Request:
    """One prompt to complete. `index` names it in the answer and, with the seed, decides its random numbers.

    With branches, each of these texts follows the prompt in a branch of its own, and what is asked for is how each
    goes on: the limit and the stop strings count for each. An engine that has no branches raises ConfigError.
    """

    index: int
    prompt: Prompt
    stop: tuple[str, ...] = ()  # the text is cut before the first of these
    max_new_tokens: int | None = None  # None: the generation group's
    ignore_eos: bool = False  # benchmarks: go on to max_new_tokens whatever comes
    branches: tuple[str, ...] = ()
    keep: bool = False  # a later prompt will go on from this one and its answer: what was computed is kept for it


@dataclass(frozen=True)
class Watch:
    """What a caller wants to hear while completions are on their way."""

    text: Callable[[int, str], bool] | None = None  # index and new text; the answer False ends that completion
    step: Callable[[], None] | None = None  # after each pass; the engine's stats say how far it is


@dataclass
class Completion:
    """What became of a request; `text` holds neither the stop string nor special tokens.

    Where branches were asked for, they stand in `branches`, in their order, and the completion itself says nothing.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_sha256: str
    prompt_tokens: int
    first_token_s: float  # from the start of its batch to its first token
    seconds: float  # from the start of its batch to its last token
    error: str | None = None
    branches: list[BranchText] | None = None


@dataclass
class EngineStats:
    """Running totals of an engine; subtract two snapshots to measure what lies between."""

    load_s: float = 0.0
    prefill_tokens: int = 0
    shared_tokens: int = 0  # of prompts; not computed again, because another prompt begins with them, too
    prefill_s: float = 0.0
    decode_tokens: int = 0  # tokens after each row's first
    decode_s: float = 0.0
    rows_alive: int = 0  # now, as rows_waiting
    rows_waiting: int = 0
    under_way: float = 0.0  # what the rows that are alive have behind them, as a number of completions
    notes: list[str] = field(default_factory=list)  # what went otherwise than asked for

    def __sub__(self, earlier: EngineStats) -> EngineStats:
        totals = (f.name for f in fields(self) if f.name != "notes")
        return EngineStats(**{name: getattr(self, name) - getattr(earlier, name) for name in totals})

    @property
    def prefill_tok_per_s(self) -> float:
        """Prompt tokens a second."""
        return self.prefill_tokens / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tok_per_s(self) -> float:
        """New tokens a second after the first of each row, over all rows of a batch."""
        return self.decode_tokens / self.decode_s if self.decode_s else 0.0


@dataclass
class EngineReport:
    """What was really loaded: numbers go to the metrics, words to the facts."""

    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Engine(Protocol):
    """A model that completes prompts. It loads on the first request, or when `load` is called."""

    @property
    def stats(self) -> EngineStats:
        """Totals so far."""
        ...

    def load(self) -> EngineReport:
        """Load if that has not happened, and say what was loaded."""
        ...

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as the model sees it (text, or ids as given) and its token ids."""
        ...

    def complete(
        self, requests: Sequence[Request], batch_size: int | None = None, watch: Watch | None = None
    ) -> Iterator[Completion]:
        """Yield one completion a request as each is ready; batch_size None = the generation group's.

        Who closes the iterator early cancels what is on its way.
        """
        ...

    def close(self) -> None:
        """Let go of the weights."""
        ...

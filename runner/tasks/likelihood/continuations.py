"""What is scored of a text at once: an answer, a choice, or one of a long text's windows. Not a
task."""

from __future__ import annotations

from dataclasses import dataclass

from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base import DataError
from runner_engine import Request


@dataclass(frozen=True)
class Continuation:
    """One continuation: a request of the job, with its sizes."""

    request: Request
    unit: int
    bytes: int
    characters: int
    question: str | None = None  # None: a window of a text, which its tokens identify
    gold: str | None = None
    is_other: bool = False
    cluster: str | None = None
    category: str | None = None
    context: int | None = None  # the tokens before it, where task.contexts asks for several

    @property
    def index(self) -> int:
        """Its number among the samples."""
        return int(self.request.id)

    @property
    def most_tokens(self) -> int:
        """The tokens that the model reads and scores, of a window of a text."""
        return len(self.request.prompt) + len(self.request.continuation or "")


def windows(
    task: LikelihoodConfig,
    text: str,
    ids: list[int],
    special: list[int],
    unit: int,
    first: int,
    are_samples: bool,
) -> list[Continuation]:
    """Cut a text into windows of tokens: each scores the tokens that the one before has not, after
    those they share.

    The first token of the text has no context and is not scored, unless the tokenizer puts a token
    before it. The bytes and characters of the text are shared out among its windows by their
    tokens.
    """
    if len(ids) < 2:
        raise DataError(
            f"text {unit} has {len(ids)} token, and the first one is not scored",
            key="task.data",
            value=task.data,
            code="empty",
        )
    has_begin = ids[:1] == special[:1]  # the tokenizer puts a token before the text
    of_text = len(ids) - has_begin
    pieces: list[Continuation] = []
    scored_to = 1
    for begin in range(0, len(ids), task.step):
        end = min(begin + task.window_tokens, len(ids))
        size, characters = (share(whole, end - has_begin, of_text) - share(whole, scored_to - has_begin, of_text)
                 for whole in (len(text.encode()), len(text)))  # fmt: skip
        prompt, continuation = tuple(ids[begin:scored_to]), tuple(ids[scored_to:end])
        number = first + len(pieces)
        request = Request(number, prompt, continuation=continuation)
        pieces.append(Continuation(request, number if are_samples else unit, size, characters))
        scored_to = end
        if end == len(ids):
            break
    return pieces


def share(whole: int, part: int, of: int) -> int:
    """Return the share of `part` tokens out of `of`, rounded so that the shares of a text add
    up."""
    return round(whole * part / of)

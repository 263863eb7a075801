"""Splits documents and answers into continuations: pieces of text that task=likelihood scores."""

from __future__ import annotations

from dataclasses import dataclass

from runner.datasets.scored_texts import ScoredItem
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base import DataError
from runner_engine import Request


@dataclass(frozen=True)
class Continuation:
    """One text to score, with its request and its size in bytes and characters."""

    request: Request
    unit: int
    bytes: int
    characters: int
    question: str | None = None  # None: a window of a text or a recorded answer, which its tokens identify
    gold: str | None = None
    is_other: bool = False
    cluster: str | None = None
    category: str | None = None
    context: int | None = None  # the tokens before it, where task.context_lengths asks for several

    is_answer: bool = False  # whether a model has generated the text

    @property
    def sample_index(self) -> int:
        return int(self.request.id)

    @property
    def num_tokens(self) -> int:
        """Number of tokens in this window, both scored tokens and context."""
        return len(self.request.prompt) + len(self.request.continuation or "")


def split_document_into_windows(
    task: LikelihoodConfig,
    text: str,
    ids: list[int],
    special_token_ids: list[int],
    document_index: int,
    first_index: int,
    should_group_by_window: bool,
) -> list[Continuation]:
    """Split a document into overlapping windows. Each token is scored in one window only.

    The first token of the document has no context and is not scored, unless the tokenizer puts a
    token before it. The bytes and characters of the document are divided among its windows in
    proportion to their tokens.
    """
    if len(ids) < 2:
        raise DataError(
            f"document {document_index} has too few tokens ({len(ids)}). The first token is never scored",
            key="task.data",
            value=task.data,
            code="empty",
        )
    has_begin = ids[:1] == special_token_ids[:1]  # the tokenizer puts a token before the text
    of_text = len(ids) - has_begin
    pieces: list[Continuation] = []
    scored_to = 1
    for begin in range(0, len(ids), task.step):
        end = min(begin + task.window_tokens, len(ids))
        size, characters = (
            compute_proportional_share(whole, end - has_begin, of_text)
            - compute_proportional_share(whole, scored_to - has_begin, of_text)
            for whole in (len(text.encode()), len(text))
        )
        prompt, continuation = tuple(ids[begin:scored_to]), tuple(ids[scored_to:end])
        number = first_index + len(pieces)
        request = Request(number, prompt, continuation=continuation)
        pieces.append(
            Continuation(request, number if should_group_by_window else document_index, size, characters)
        )
        scored_to = end
        if end == len(ids):
            break
    return pieces


def compute_proportional_share(total: int, part_tokens: int, all_tokens: int) -> int:
    """Return `total` times `part_tokens` / `all_tokens`, rounded to a whole number."""
    return round(total * part_tokens / all_tokens)


def build_answer_continuation(item: ScoredItem, document_index: int, index: int) -> Continuation:
    """Return the continuation that scores a recorded answer in its own tokens, after its prompt."""
    assert item.answer is not None
    (text,) = item.texts
    request = Request(index, item.answer.prompt, continuation=item.answer.token_ids or text)
    return Continuation(
        request,
        document_index,
        len(text.encode()),
        len(text),
        cluster=item.cluster,
        category=item.category,
        is_answer=True,
    )

"""Implements task.context_lengths: scores a document's last tokens after contexts of several lengths.

A longer context contains the tokens of the shorter ones, but not their keys and values, which
depend on all tokens before them. So each context is computed anew and nothing is shared. A
document too short for the longest context is omitted everywhere: all context lengths are
compared over the same documents.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.datasets.scored_texts import ScoredItem, TextContext
from runner.tasks.likelihood.continuations import Continuation, compute_proportional_share
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base import ConfigError, check_value
from runner_base.notes import Note, note
from runner_engine import Request


def require_documents_for_context_lengths(task: LikelihoodConfig, items: Sequence[ScoredItem]) -> None:
    """Raise ConfigError if task.context_lengths is set but the data are not documents."""
    need = f"task.context_lengths needs documents, but task.data={task.data} contains questions or prompts"
    is_text = all(given_text.form is TextContext.text for given_text in items)
    check_value(
        not task.context_lengths or is_text,
        "task.context_lengths",
        f"[{','.join(task.context_lengths)}]",
        need,
        code="unsupported",
    )


def split_document_by_context_length(
    task: LikelihoodConfig,
    text: str,
    token_ids: list[int],
    special_token_ids: list[int],
    document_index: int,
    first_index: int,
) -> list[Continuation]:
    """Return one continuation per context length. Each scores the document's last tokens.

    Empty if the document is shorter than the longest context. A token that the tokenizer puts before
    a document stands before each context too, and is not counted in it.
    """
    begin = token_ids[:1] if token_ids[:1] == special_token_ids[:1] else []
    own = token_ids[len(begin) :]
    scored_from = len(own) - task.scored_tokens
    if scored_from < max(task.context_tokens):
        return []
    scored = tuple(own[scored_from:])
    size, characters = (
        whole - compute_proportional_share(whole, scored_from, len(own))
        for whole in (len(text.encode()), len(text))
    )
    return [
        Continuation(
            Request(
                first_index + number, (*begin, *own[scored_from - context : scored_from]), continuation=scored
            ),
            document_index,
            size,
            characters,
            context=context,
        )
        for number, context in enumerate(task.context_tokens)
    ]


def require_continuations(task: LikelihoodConfig, continuations: Sequence[Continuation]) -> None:
    """Raise ConfigError if all documents are shorter than the longest context."""
    if task.context_lengths and not continuations:
        raise ConfigError(
            (
                f"all documents of task.data={task.data} are shorter than {task.max_tokens_per_pass:,} "
                "tokens. Give shorter context lengths"
            ),
            key="task.context_lengths",
            value=f"[{','.join(task.context_lengths)}] with task.last_tokens={task.last_tokens}",
            code="too_large",
        )


def build_short_document_notes(
    task: LikelihoodConfig, items: Sequence[ScoredItem], continuations: Sequence[Continuation]
) -> list[Note]:
    units = {piece.unit for piece in continuations}
    missing = [unit for unit in range(len(items)) if unit not in units]
    if not task.context_lengths or not missing:
        return []
    return [note("texts_too_short", texts=missing, total=len(items), tokens=task.max_tokens_per_pass)]


def context_notes(task: LikelihoodConfig) -> list[Note]:
    """Return a note with the number of scored tokens and the longest context length."""
    return [note("contexts", tokens=task.last_tokens, longest=max(task.context_tokens))]

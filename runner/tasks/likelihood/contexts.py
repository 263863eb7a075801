"""task.contexts: the last tokens of each text, scored after so many tokens of context, for each of
several numbers.

Not a task. A longer context holds the tokens of the shorter ones, but none of their keys and
values: each of these depends on all tokens before it. So each context is read anew, and nothing is
shared. A text that is too short for the longest context is in none of them: all contexts are
compared over the same texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.datasets.given import Form, Given
from runner.tasks.likelihood.continuations import Continuation, share
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base import ConfigError, check
from runner_base.notes import Note, note
from runner_engine import Request


def check_forms(task: LikelihoodConfig, given: Sequence[Given]) -> None:
    """Raise ConfigError for data that are no texts."""
    need = (
        f"it scores the last tokens of texts, and task.data={task.data} has texts behind questions or prompts"
    )
    is_text = all(given_text.form is Form.text for given_text in given)
    check(
        not task.contexts or is_text,
        "task.contexts",
        f"[{','.join(task.contexts)}]",
        need,
        code="unsupported",
    )


def after_contexts(
    task: LikelihoodConfig, text: str, ids: list[int], special: list[int], unit: int, first: int
) -> list[Continuation]:
    """Return the last tokens of a text after each context; none if the text is too short for the
    longest.

    A token that the tokenizer puts before a text stands before each context, too, and is not
    counted in it.
    """
    begin = ids[:1] if ids[:1] == special[:1] else []
    own = ids[len(begin) :]
    scored_from = len(own) - task.scored_tokens
    if scored_from < max(task.context_lengths):
        return []
    scored = tuple(own[scored_from:])
    size, characters = (
        whole - share(whole, scored_from, len(own)) for whole in (len(text.encode()), len(text))
    )
    return [
        Continuation(
            Request(first + number, (*begin, *own[scored_from - context : scored_from]), continuation=scored),
            unit,
            size,
            characters,
            context=context,
        )
        for number, context in enumerate(task.context_lengths)
    ]


def check_any(task: LikelihoodConfig, pieces: Sequence[Continuation]) -> None:
    """Raise ConfigError if all texts are too short."""
    if task.contexts and not pieces:
        raise ConfigError(
            f"no text of task.data={task.data} has {task.most_tokens:,} tokens: give shorter contexts",
            key="task.contexts",
            value=f"[{','.join(task.contexts)}] with task.last_tokens={task.last_tokens}",
            code="too_large",
        )


def left_out(task: LikelihoodConfig, given: Sequence[Given], pieces: Sequence[Continuation]) -> list[Note]:
    """Return a note that names the texts that are too short."""
    units = {piece.unit for piece in pieces}
    missing = [unit for unit in range(len(given)) if unit not in units]
    if not task.contexts or not missing:
        return []
    return [note("texts_too_short", texts=missing, total=len(given), tokens=task.most_tokens)]


def notes(task: LikelihoodConfig) -> list[Note]:
    """Return what a reader of the numbers needs."""
    return [note("contexts", tokens=task.last_tokens, longest=max(task.context_lengths))]

"""Checks that document windows fit the model's context length, before and after the model is loaded.

Not a task. Before the load, a document with no more bytes than the context length needs no
counting. Longer ones are counted with tokenizer.json from the checkpoint by the tokenizers
library, without the model's own libraries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.tasks import ResolvedJob, exceed_context_hint, get_model_kind
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base import ConfigError
from runner_base.notes import Note, note

SPECIAL = 1  # a token that a tokenizer may put before a text
TOKENIZER = "tokenizer.json"


def check_longest_window_fits_context(
    task: LikelihoodConfig, longest_tokens: int, max_tokens: float, hint: str = ""
) -> None:
    """Raise ConfigError if the longest window exceeds the context length.

    hint: how the model can read longer ones, as the end of the message.
    """
    # it stands before each context, and is none of a window's tokens
    special = SPECIAL if task.context_lengths else 0
    if min(longest_tokens, task.max_tokens_per_pass + special) - 1 <= max_tokens:
        return
    if task.context_lengths:
        value = f"[{','.join(task.context_lengths)}] with task.last_tokens={task.last_tokens}"
        need = (
            f"the contexts need {task.max_tokens_per_pass:,} tokens, but the model's limit is "
            f"{max_tokens:.0f}. Give shorter contexts"
        )
        raise ConfigError(f"{need}{hint}", key="task.context_lengths", value=value, code="too_large")
    need = f"the model's limit is {max_tokens:.0f} tokens. Give task.window={max_tokens:.0f}"
    raise ConfigError(f"{need}, or less{hint}", key="task.window", value=task.window, code="too_large")


def check_windows_fit_before_load(
    task: LikelihoodConfig, documents: Sequence[str], resolved: ResolvedJob
) -> list[Note]:
    """Raise ConfigError if windows exceed the model's context length. Returns a note if it is unknown.

    The longest window is stored in the task config, so that memory is predicted for it.
    """
    room = get_model_kind(resolved.config.model).positions(resolved).room
    if task.max_tokens_per_pass + SPECIAL - 1 <= room:
        return []  # however long the texts are
    longest = count_longest_document_tokens(documents, resolved, room)
    if longest is not None:
        check_longest_window_fits_context(task, longest, room, exceed_context_hint(resolved))
        return []
    if task.max_tokens_per_pass - 1 <= room:
        return []
    key = (
        f"task.context_lengths=[{','.join(task.context_lengths)}]"
        if task.context_lengths
        else f"task.window={task.window}"
    )
    return [note("lengths_unknown", "warning", key=key, room=room)]


def count_longest_document_tokens(
    documents: Sequence[str], resolved: ResolvedJob, max_tokens: float
) -> int | None:
    """Return an upper bound of the tokens in the longest document. None without a tokenizer.

    If the number of bytes is small enough, no tokenizer is needed.
    """
    most = max((len(text.encode()) for text in documents), default=0) + SPECIAL
    if most - 1 <= max_tokens:
        return most
    tokenizer = _load_tokenizer_or_none(resolved)
    if tokenizer is None:
        return None
    return max(len(tokenizer.encode(text).ids) for text in documents)


def _load_tokenizer_or_none(resolved: ResolvedJob) -> Any:
    files = resolved.model.files
    if files.model.random_weights or not files.path.is_dir() or not (files.path / TOKENIZER).is_file():
        return None
    from tokenizers import Tokenizer

    return _load_tokenizer_file(Tokenizer, files.path / TOKENIZER)


def _load_tokenizer_file(tokenizer_class: Any, path: Path) -> Any:
    try:
        return tokenizer_class.from_file(str(path))
    except Exception:  # noqa: BLE001  # the library raises a plain Exception; the load names the file and the damage
        return None


def require_answers_fit_context(task: LikelihoodConfig, longest: int, resolved: ResolvedJob) -> None:
    """Raise ConfigError if an answer with its prompt exceeds the model's context length."""
    room = get_model_kind(resolved.config.model).positions(resolved).room
    if longest - 1 > room:
        raise ConfigError(
            (
                f"the longest answer with its prompt has {longest:,} tokens, but the model's limit is "
                f"{room:.0f}. Use a model with a longer context{exceed_context_hint(resolved)}"
            ),
            key="task.answers",
            value=task.answers,
            code="too_large",
        )

"""Whether the windows of texts fit the model: decided by one function before the load, as far as
files tell, and after.

Not a task. Before the load a text that is not longer in bytes than the room needs no counting;
longer ones are counted with the tokenizer.json beside the weights, by the library that reads it,
without the model's own libraries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.tasks import ResolvedJob, beyond_words, kind_of
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base import ConfigError
from runner_base.notes import Note, note

SPECIAL = 1  # a token that a tokenizer may put before a text
TOKENIZER = "tokenizer.json"


def check_window(task: LikelihoodConfig, longest: int, room: float, beyond: str = "") -> None:
    """Reject windows, the longest of which has so many tokens, that are longer than what the model
    can read.

    beyond: how the model can read them nevertheless, as the end of the message.
    """
    # it stands before each context, and is none of a window's tokens
    special = SPECIAL if task.contexts else 0
    if min(longest, task.most_tokens + special) - 1 <= room:
        return
    if task.contexts:
        value = f"[{','.join(task.contexts)}] with task.last_tokens={task.last_tokens}"
        need = f"{task.most_tokens:,} tokens, and the model has room for {room:.0f}: give shorter contexts"
        raise ConfigError(f"{need}{beyond}", key="task.contexts", value=value, code="too_large")
    need = f"the model has room for {room:.0f} tokens: give task.window={room:.0f}"
    raise ConfigError(f"{need}, or less{beyond}", key="task.window", value=task.window, code="too_large")


def check_before_the_load(task: LikelihoodConfig, texts: Sequence[str], resolved: ResolvedJob) -> list[Note]:
    """Reject windows that the model cannot read; return a note where only the load can tell.

    The longest window is kept with the task, so that memory is predicted for it.
    """
    room = kind_of(resolved.config.model).positions(resolved).room
    if task.most_tokens + SPECIAL - 1 <= room:
        return []  # however long the texts are
    longest = longest_of(texts, resolved, room)
    if longest is not None:
        check_window(task, longest, room, beyond_words(resolved))
        return []
    if task.most_tokens - 1 <= room:
        return []
    key = f"task.contexts=[{','.join(task.contexts)}]" if task.contexts else f"task.window={task.window}"
    return [note("lengths_unknown", "warning", key=key, room=room)]


def longest_of(texts: Sequence[str], resolved: ResolvedJob, room: float) -> int | None:
    """Return the tokens of the longest text, or its bytes if that is no more than the room; None if
    unknown."""
    most = max((len(text.encode()) for text in texts), default=0) + SPECIAL
    if most - 1 <= room:
        return most
    tokenizer = _tokenizer(resolved)
    if tokenizer is None:
        return None
    return max(len(tokenizer.encode(text).ids) for text in texts)


def _tokenizer(resolved: ResolvedJob) -> Any:
    """Return the tokenizer beside a folder's weights; None if there is none that can be read
    without the model."""
    files = resolved.model.files
    if files.model.random_weights or not files.path.is_dir() or not (files.path / TOKENIZER).is_file():
        return None
    from tokenizers import Tokenizer

    return _read(Tokenizer, files.path / TOKENIZER)


def _read(kind: Any, path: Path) -> Any:
    try:
        return kind.from_file(str(path))
    except Exception:  # noqa: BLE001  # the library raises a plain Exception; the load names the file and the damage
        return None

"""Remembers the command line as typed by the user, for messages that suggest another command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_arguments: ContextVar[tuple[str, ...] | None] = ContextVar("arguments", default=None)
MULTIRUN = frozenset({"-m", "--multirun"})


@contextmanager
def remember_command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Remember the arguments of the `runner` command while this block runs."""
    before = _arguments.set(tuple(arguments))
    try:
        yield
    finally:
        _arguments.reset(before)


def format_grid_command() -> str | None:
    """Return the typed command with -m, which runs it as a grid. None if that is impossible."""
    arguments = _arguments.get()
    if arguments is None or MULTIRUN & {*arguments}:
        return None
    return f"runner -m {shlex.join(word for word in arguments if not word.startswith('plan='))}"

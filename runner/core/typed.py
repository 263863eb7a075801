"""The command line as the user typed it, for a message that names another command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_arguments: ContextVar[tuple[str, ...] | None] = ContextVar("arguments", default=None)
MULTIRUN = frozenset({"-m", "--multirun"})


@contextmanager
def typed(arguments: Sequence[str]) -> Iterator[None]:
    """Keep the arguments of `runner` while it runs."""
    before = _arguments.set(tuple(arguments))
    try:
        yield
    finally:
        _arguments.reset(before)


def as_grid() -> str | None:
    """Return the command that runs as a grid the single job that was typed, also for its plan; None
    if none was."""
    arguments = _arguments.get()
    if arguments is None or MULTIRUN & {*arguments}:
        return None
    return f"runner -m {shlex.join(word for word in arguments if not word.startswith('plan='))}"

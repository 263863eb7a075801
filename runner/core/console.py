"""What every command shares: an error that the user can mend is one message on stderr and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from runner.core.errors import ConfigError, RunnerError

INTERRUPTED = 130  # the exit code that shells give a program which Ctrl-C has ended


def message_of(error: Exception) -> str | None:
    """Return the message to show for an error, None for a bug, which is to be seen with its traceback."""
    return str(error) if isinstance(error, RunnerError) else None


def exit_code_of(
    name: str, work: Callable[[], int | None], message_of: Callable[[Exception], str | None] = message_of
) -> int:
    """Do the work and return its exit code; where it fails, print `name: message` and return the error's code."""
    try:
        return work() or 0
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        print(f"{name}: {message}", file=sys.stderr)
        return error.exit_code if isinstance(error, RunnerError) else ConfigError.exit_code


def run_entry(
    name: str,
    work: Callable[[], int | None],
    message_of: Callable[[Exception], str | None] = message_of,
    when_interrupted: str | None = None,
) -> NoReturn:
    """Do the work of a command and exit: 0 done, 1 the work failed, 2 the input is wrong, 130 Ctrl-C."""
    try:
        code = exit_code_of(name, work, message_of)
    except KeyboardInterrupt:
        if when_interrupted:
            print(when_interrupted, file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)

"""How every command starts and ends: read `.env`, do the work, and exit with its code."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from runner_base import environment, heartbeat, signals
from runner_base.console import keep_streams, say, unwritten
from runner_base.errors import INTERRUPTED, exit_code_of, message_of
from runner_base.uris import without_secrets


def run_entry(
    name: str,
    work: Callable[[], int | None],
    message_of: Callable[[Exception], str | None] = message_of,
    when_interrupted: str | None = None,
) -> NoReturn:
    """Do the work of a command and exit: 0 done, 1 the work failed, 2 the input is wrong, 130
    Ctrl-C."""

    def with_environment() -> int | None:
        environment.read()
        return work()

    keep_streams()
    sys.excepthook = print_traceback
    code: Any
    try:
        with heartbeat.started():
            code = exit_code_of(name, with_environment, message_of)
    except KeyboardInterrupt as stop:
        signals.answer()
        signals.restore_defaults()
        if when_interrupted:
            say(f"interrupted: {str(stop) or 'what was done is kept'}, {when_interrupted}")
        code = INTERRUPTED
    except SystemExit as exit:  # raised by argparse
        code = exit.code
    if lost := unwritten():
        fix = "the results are kept, and the same command prints them again"
        say(f"{name}: stdout cannot be written ({lost.strerror}): {fix}")
        code = code or 1
    gc.freeze()  # all of it ends with the process: looking through torch's modules for garbage takes half a second
    sys.exit(code)


def print_traceback(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Print the traceback of a bug as Python does; the errors of libraries in it may quote a URI
    with its token."""
    sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, where))))

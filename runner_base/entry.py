"""Common start and exit of all commands: read `.env`, run the command, set the exit code."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from runner_base import environment, heartbeat, process_role, signals
from runner_base.console import find_stdout_error, install_fault_tolerant_streams, print_message
from runner_base.errors import INTERRUPTED, get_error_message_for_user, run_with_exit_code
from runner_base.uris import redact_secrets


def run_command(
    program: str,
    command: Callable[[], int | None],
    format_message: Callable[[Exception], str | None] = get_error_message_for_user,
    interrupt_message: str | None = None,
) -> NoReturn:
    """Run a command and exit with its code: 0 done, 1 failed, 2 wrong input, 130 Ctrl-C."""

    def load_environment_and_work() -> int | None:
        environment.load_dotenv()
        return command()

    install_fault_tolerant_streams()
    if was_started_as_runner_command():
        process_role.mark_as_command()
    sys.excepthook = print_traceback
    code: Any
    try:
        with heartbeat.run_heartbeat():
            code = run_with_exit_code(program, load_environment_and_work, format_message)
    except KeyboardInterrupt as stop:
        signals.mark_interrupt_handled()
        signals.restore_default_handlers()
        if interrupt_message:
            print_message(f"interrupted: {str(stop) or 'what was done is kept'}, {interrupt_message}")
        code = INTERRUPTED
    except SystemExit as exit:  # raised by argparse
        code = exit.code
    if lost := find_stdout_error():
        fix = "The results are saved. Run the same command to print them again"
        print_message(f"{program}: cannot write to stdout ({lost.strerror}). {fix}")
        code = code or 1
    gc.freeze()  # all of it ends with the process: looking through torch's modules for garbage takes half a second
    if is_main_program() and isinstance(code, int):
        exit_without_teardown(code)
    sys.exit(code)


def was_started_as_runner_command(*names: str) -> bool:
    """Whether this process was started as one of our commands, or as one of those with these names."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None) or ""
    name = spec.name.removesuffix(".__main__") if spec is not None else os.path.basename(file)
    return name in names if names else name.startswith("runner")


def is_main_program() -> bool:
    """Whether this process was started as the command `runner`, and nobody traces or profiles it."""
    return was_started_as_runner_command("runner") and sys.gettrace() is None and sys.getprofile() is None


def exit_without_teardown(code: int) -> None:
    """End the process as Python does, but leave its objects to the system: with torch that saves 0.2 s.

    Returns if the output cannot be written, so that Python ends the process and reports it.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as Python does first
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit(code)


def print_traceback(
    error_class: type[BaseException], error: BaseException, traceback_object: TracebackType | None
) -> None:
    """Print the traceback of an unexpected error without secrets, such as a token in a URI."""
    sys.stderr.write(
        redact_secrets("".join(traceback.format_exception(error_class, error, traceback_object)))
    )

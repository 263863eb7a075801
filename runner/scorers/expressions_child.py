"""Process that compares mathematical expressions. It forks a sandboxed process, which parses them
within resource limits.

Math-Verify is imported once, before the first fork. The fork has limits of seconds per answer
and of memory, and may write no file, start nothing and compile nothing but numbers. The kernel
ends it at the time limit, without Python's help, and the next answer gets a new fork. Both
processes end when their input ends, whatever ended the other side (expressions.py).
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import sys
from contextlib import suppress
from typing import Any

from runner_base import MIB
from runner_base.child_process import describe_exit_code

# an answer may take; the first decides, since it does not depend on what else runs here
CPU_S, CLOCK_S = (0.5, 20.0)
MEMORY_MIB = 1024
MOST_ASKED = 1000  # of one fork, which remembers how it has parsed
_NO_MEMORY, _TOO_DEEP, _FAILED = 3, 4, 5  # exit codes
WHY = {
    -signal.SIGPROF: f"took more than {CPU_S:g} s of CPU time",
    -signal.SIGALRM: f"took more than {CLOCK_S:g} s",
    _NO_MEMORY: f"needed more than {MEMORY_MIB} MiB of memory",
    _TOO_DEEP: "is nested too deeply",
    _FAILED: "failed in the parser",
}
_REFUSED = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pty.", "signal.", "webbrowser.")
# so sympy reads digits
_NUMBER = re.compile(rb"from sympy import \*|-?(?:Integer|Float) ?\('?[\d.eE+-]*'? ?\)")
_TO_IMPORT = ("os.listdir", "os.scandir")  # modules of sympy that are imported at their first use


def main() -> None:
    """Answer each request line from stdin with a reply line, until stdin ends."""
    from runner.scorers.expression_equality import WARMING, are_expressions_equal

    logging.disable(logging.CRITICAL)
    # Ctrl-C is for the other side, which then closes stdin
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = sys.stdin.buffer, os.dup(1)
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    for gold, answer in WARMING:
        are_expressions_equal(gold, answer)
    fork: ParserFork | None = None
    for line in requests:
        fork = fork or ParserFork()
        reply = fork.send_request(line)
        if not reply or fork.asked == MOST_ASKED:
            code, fork = fork.close_pipes_and_await_exit(), None
        os.write(
            replies, reply or json.dumps([None, WHY.get(code) or describe_exit_code(code)]).encode() + b"\n"
        )
    os._exit(0)  # at once: the fork has seen the end of its requests, too


class ParserFork:
    """Forked process that parses model output. It is replaced when it exceeds a resource limit."""

    def __init__(self) -> None:
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self.asked = 0
        self._pid = os.fork()
        if not self._pid:
            for descriptor in (0, self._requests, self._replies):
                os.close(descriptor)
            serve_comparisons_in_forked_process(requests, replies)
        os.close(requests)
        os.close(replies)

    def send_request(self, line: bytes) -> bytes:
        """Return the forked process's reply to a request line. Empty if the process has died."""
        self.asked += 1
        reply = b""
        with suppress(BrokenPipeError):
            os.write(self._requests, line)
            while not reply.endswith(b"\n") and (piece := os.read(self._replies, 1 << 16)):
                reply += piece
        return reply

    def close_pipes_and_await_exit(self) -> int:
        """Terminate the forked process and return its exit code."""
        os.close(self._requests)
        os.close(self._replies)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def serve_comparisons_in_forked_process(request_fd: int, reply_fd: int) -> None:
    """Answer requests in the forked process. Exceeding a resource limit ends the process."""
    from runner.scorers.expression_equality import are_expressions_equal

    code = _FAILED
    try:
        apply_sandbox_limits()
        with open(request_fd, "rb") as lines:
            for line in lines:
                among, answer = json.loads(line)
                signal.setitimer(signal.ITIMER_PROF, CPU_S)
                signal.setitimer(signal.ITIMER_REAL, CLOCK_S)
                index = next(
                    (
                        index
                        for index, candidate in enumerate(among)
                        if are_expressions_equal(candidate, answer)
                    ),
                    None,
                )
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
                os.write(reply_fd, json.dumps([index, ""]).encode() + b"\n")
        code = 0
    except MemoryError:
        code = _NO_MEMORY
    except RecursionError:
        code = _TOO_DEEP
    finally:
        os._exit(code)


def apply_sandbox_limits() -> None:
    """Limit this process's memory and files, and block all operations that comparisons do not need."""
    limits = {"AS": MEMORY_MIB * MIB, "FSIZE": 0, "CORE": 0, "NPROC": 0}
    for name, most in limits.items():
        with suppress(ValueError, OSError):  # macOS takes no limit of memory
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    sys.addaudithook(block_unsafe_operation)


def block_unsafe_operation(audit_event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook that blocks file writes, processes, network access and compiled code."""
    is_refused = audit_event.startswith(_REFUSED) and audit_event not in _TO_IMPORT
    if audit_event == "open":
        is_refused = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
    elif audit_event == "compile":
        source, file = arguments
        is_refused = not str(file).endswith(".py") and not (
            isinstance(source, bytes) and _NUMBER.fullmatch(source)
        )
    if is_refused:
        raise PermissionError(f"{audit_event} is refused")


if __name__ == "__main__":
    main()

"""Runs model-written Python code in an isolated process. The program's result is the value of its
variable `answer`.

The process (sandbox_child.py) gets no environment and an empty folder. It limits itself,
and the kernel refuses everything else: files elsewhere (Landlock), and network, processes,
signals and other system calls that a computation does not need (seccomp, syscalls.py).
Modules that the code names are imported first. Then every call with a path is refused, too,
so that the code cannot detect which files exist. `protections` returns those that the
machine supports.

The result is not trusted, because the code can write to the pipe itself. So each part of it
is limited again here.
"""

from __future__ import annotations

import marshal
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from runner.config.extractors import Extractor
from runner.sandbox import sandbox_child, syscalls
from runner.sandbox.code_folders import create_temporary_code_folder
from runner.sandbox.sandbox_child import LONGEST_TEXT, MAX_DIGITS
from runner.scorers import extract_canonical_answer, numbers, parse_choice_letter
from runner_base import MIB, JobFailed
from runner_base.child_process import describe_exit_code

KIB = 1024
NUMBER, LETTER = "number", "letter of a choice"  # what a program's answer has to be
LONGEST_CODE = 20_000  # characters
SHOWN = 500  # characters of the printed text that an outcome keeps
# The parts of a result, and how many characters of each are kept; the child sends no more unless
# the code interferes.
_FIELDS = {"held": 200, "answer": LONGEST_TEXT, "why": 400, "printed": SHOWN}
_MAX_ANSWERED = 16 * KIB  # bytes of a result; only code that writes to the pipe itself exceeds it
_LOOK_S = 0.1  # while a program runs, its folder is checked at this interval
_MAX_FILES = 100
_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
# the first line of a program that has prose around it, and no fence
_CODE_BEGINS = re.compile(
    r"^(?:(?:import|from|def|class|for|while|if|try|with|print)\b|#|[A-Za-z_]\w*\s*[-+*/]?=)", re.M
)
_PROBE = "import decimal, math\nanswer = int(math.sqrt(decimal.Decimal(1764)))"
_PROBE_ANSWER = "42"
_PROBE_S = 30.0  # at least, whatever the limit of programs: a busy machine may take long to start a process


class CodeStatus(StrEnum):
    """Whether a program assigned a valid number or letter to its variable `answer`."""

    ok = "ok"
    code_failed = "code_failed"


@dataclass(frozen=True)
class SandboxLimits:
    """Limits of time, memory, output and disk for a program in the sandbox."""

    seconds: float = 10.0  # by the clock
    cpu_s: int = 5
    memory_mib: int = 512
    file_kib: int = 1024  # of one file; all files together may have four times as much
    printed_kib: int = 16


@dataclass(frozen=True)
class CodeOutcome:
    """Outcome of a program: its answer as a plain number or letter, or the reason why it has no answer."""

    answer: str | None
    status: CodeStatus
    why: str = ""
    printed: str = ""  # the beginning of what it printed


class StopKind(StrEnum):
    """Why the parent stopped a process."""

    timeout = "timeout"
    disk_full = "disk_full"
    wrote_to_pipe = "wrote_to_pipe"


@dataclass(frozen=True)
class ProcessOutput:
    """What a sandboxed process wrote, and how it ended. Nothing of it is trusted."""

    data: bytes
    stop: StopKind | None
    stop_reason: str  # empty if the process ended by itself
    exit_code: int
    cpu_s: float

    @property
    def fields(self) -> list[str]:
        """The parts of the result. A complete result has four: protections, answer, reason, printed text."""
        return self.data.decode(errors="replace").split("\0")

    @property
    def is_complete(self) -> bool:
        return self.stop is None and len(self.fields) == len(_FIELDS)

    def exceeded_cpu_limit(self, limits: SandboxLimits) -> bool:
        # a program that ignores SIGXCPU gets SIGKILL a second later
        ignored_limit = self.exit_code == -signal.SIGKILL and self.cpu_s >= limits.cpu_s
        return ignored_limit or self.exit_code == -signal.SIGXCPU


class Sandbox:
    """Runs model-written programs, each in its own isolated process. Several threads may use one
    sandbox.

    `without` names protections to disable (landlock, seccomp), as on a machine that lacks them.
    With `letters` a program's answer is the letter of a choice.
    """

    def __init__(
        self,
        limits: SandboxLimits | None = None,
        disabled_protections: frozenset[str] = frozenset(),
        expects_letter: bool = False,
    ) -> None:
        self.limits, self.without, self.letters = (
            limits or SandboxLimits(),
            disabled_protections,
            expects_letter,
        )
        self._filters = () if "seccomp" in disabled_protections else syscalls.build_seccomp_filters()
        self._held: frozenset[str] | None = None  # names from the child, once it has been tried
        self._lock = threading.Lock()

    def run_program(self, reply: str) -> CodeOutcome:
        if len(reply) > LONGEST_CODE:
            return _failed_outcome(f"the code is longer than {LONGEST_CODE} characters")
        self.detect_protections()
        return self._run_for_answer(extract_programs(reply), self.limits, self.letters)[0]

    def detect_protections(self) -> frozenset[str]:
        """Run a test program, and return the names of the sandbox protections that work on this machine.

        If the test program fails with the seccomp filter, the filter is dropped.
        """
        with self._lock:
            if self._held is None:
                limits = replace(self.limits, seconds=max(_PROBE_S, self.limits.seconds))
                outcome, held = self._run_for_answer((_PROBE,), limits)
                if outcome.answer != _PROBE_ANSWER and self._filters:
                    self._filters = ()
                    outcome, held = self._run_for_answer((_PROBE,), limits)
                if outcome.answer != _PROBE_ANSWER:
                    raise JobFailed(
                        f"the sandbox for generated Python does not work on this machine: {outcome.why}",
                        code="failed",
                    )
                self._held = held
            return self._held

    def run_process(
        self, texts: Sequence[str], limits: SandboxLimits, **child_settings: object
    ) -> ProcessOutput:
        """Start the child process, send it the programs, and return what it writes until it ends."""
        with create_temporary_code_folder() as folder:
            # no preexec_fn: this process has threads, and torch
            with subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", sandbox_child.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                start_new_session=True,
            ) as process:
                try:
                    self._send_programs(process, texts, limits, child_settings)
                    data, stop, why = self._read_output_and_stop_reason(process, folder, limits)
                finally:
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)
                    cpu_s = _wait_and_get_cpu_s(process)
            return ProcessOutput(data, stop, why, process.returncode, cpu_s)

    def _run_for_answer(
        self, texts: Sequence[str], limits: SandboxLimits, expects_letter: bool = False
    ) -> tuple[CodeOutcome, frozenset[str]]:
        wanted = LETTER if expects_letter else NUMBER
        return self._parse_outcome(self.run_process(texts, limits, wanted=wanted), expects_letter)

    def _send_programs(
        self,
        process: subprocess.Popen[bytes],
        texts: Sequence[str],
        limits: SandboxLimits,
        child_settings: Mapping[str, object],
    ) -> None:
        job = {
            "parent": os.getpid(),
            "cpu_s": limits.cpu_s,
            "memory": limits.memory_mib * MIB,
            "file": limits.file_kib * KIB,
            "printed": limits.printed_kib * KIB,
            "shown": SHOWN,
            "filters": self._filters,
            "without": tuple(self.without),
            **child_settings,
        }
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(marshal.dumps(job) + marshal.dumps(tuple(texts)))

    def _read_output_and_stop_reason(
        self, process: subprocess.Popen[bytes], folder: str, limits: SandboxLimits
    ) -> tuple[bytes, StopKind | None, str]:
        """Read a process's output until the process ends. Also returns why the process was stopped, if it
        was.
        """
        assert process.stdout is not None
        descriptor, data, is_open = process.stdout.fileno(), b"", True
        deadline = time.monotonic() + limits.seconds
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while (left_s := deadline - time.monotonic()) > 0:
            wait_s = min(left_s, _LOOK_S)
            if not is_open:
                time.sleep(min(wait_s, 0.01))
                if _has_ended(process):
                    return data, None, ""
            elif poll.poll(1000 * wait_s):
                chunk = os.read(descriptor, _MAX_ANSWERED)
                data += chunk
                if len(data) > _MAX_ANSWERED:
                    why = "the program wrote directly to the pipe that transfers its answer"
                    return b"", StopKind.wrote_to_pipe, why
                if is_open := bool(chunk):
                    continue
                if data.count(b"\0") == len(_FIELDS) - 1 or _has_ended(process):
                    return data, None, ""
                # the process is ending, or the code has closed the pipe
                poll.unregister(descriptor)
            if _exceeds_disk_limit(folder, 4 * limits.file_kib * KIB):
                why = "the program exceeded the limit of files or bytes on disk"
                return b"", StopKind.disk_full, why
        why = "the program " if is_open else "the program closed the answer pipe early, and "
        return b"", StopKind.timeout, f"{why}was stopped after {limits.seconds:g} s"

    def _parse_outcome(
        self, output: ProcessOutput, expects_letter: bool
    ) -> tuple[CodeOutcome, frozenset[str]]:
        data, reason = output.data, output.stop_reason
        fields = output.fields
        if reason or len(fields) != len(_FIELDS):
            if not reason and output.exceeded_cpu_limit(self.limits):
                reason = f"the program used more than {self.limits.cpu_s} s of CPU time"
            elif data and output.exit_code == 0:
                reason = reason or "the program wrote directly to the pipe that transfers its answer"
            return _failed_outcome(
                reason or f"the program {describe_exit_code(output.exit_code)} without returning an answer"
            ), frozenset()
        held, answer, reason, printed = (
            field[:most] for field, most in zip(fields, _FIELDS.values(), strict=True)
        )
        found = (
            (
                parse_choice_letter(answer)
                if expects_letter
                else extract_canonical_answer(answer, numbers, Extractor.flexible)
            )
            if answer
            else None
        )
        if found is not None and len(found) > MAX_DIGITS:
            found, reason = None, f"`answer` has more than {MAX_DIGITS} digits"
        if found is None:
            reason = (
                reason
                or f"`answer` is {answer.strip()[:100]!r}, not a {(LETTER if expects_letter else NUMBER)}"
            )
            return CodeOutcome(None, CodeStatus.code_failed, reason, printed), frozenset(held.split())
        return CodeOutcome(found, CodeStatus.ok, "", printed), frozenset(held.split())


def extract_programs(reply: str) -> tuple[str, ...]:
    """Return the possible programs in a model's reply, most likely first. The sandbox runs the first valid
    one.
    """
    fenced = [found[1] for found in _FENCE.finditer(reply)]
    if fenced:
        final = [block for block in fenced if re.search(r"^\s*answer\b[^\n]*=", block, re.M)] or fenced
        # the first: a program in several blocks
        return tuple(dict.fromkeys(["\n".join(fenced), final[-1]]))
    begin = _CODE_BEGINS.search(reply)
    if begin is None:
        return (reply,)
    lines = reply[begin.start() :].splitlines()
    # prose may follow it, too: try with ever fewer lines at the end
    return tuple(
        dict.fromkeys([reply, *("\n".join(lines[:count]) for count in range(len(lines), 0, -1)[:50])])
    )


def _failed_outcome(reason: str) -> CodeOutcome:
    return CodeOutcome(None, CodeStatus.code_failed, reason)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process has ended. On Linux the process remains a zombie, so that its id is not
    reused.
    """
    if sys.platform != "linux":
        return process.poll() is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _wait_and_get_cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process to end and return its CPU time in seconds, or 0 if it was already reaped."""
    if process.returncode is not None:
        return 0.0
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _exceeds_disk_limit(folder: str, max_bytes: int) -> bool:
    """Return whether a program's folder exceeds the limit of bytes or files. Landlock blocks the creation of
    subfolders.
    """
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for count, entry in enumerate(entries, start=1):
            total += entry.stat(follow_symlinks=False).st_blocks * 512
            if total > max_bytes or count > _MAX_FILES:
                return True
    return False

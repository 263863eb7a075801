"""Print the current step on stderr after 10 seconds without output.

`with report_step("reading weights"):` names a step; the innermost step is printed. One thread per
command prints (`run_heartbeat`, in `entry.py`). A command that ends within 10 seconds prints none
of these lines. `with suppress_heartbeat():` suppresses them while the command waits for the user or
draws by itself. RUNNER_PROGRESS=off suppresses them always.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from runner_base.console import ResilientStream, print_message
from runner_base.texts import format_duration

FIRST_AFTER_S = 9.5  # of the process: what ends within 10 s prints no line
SILENT_FOR_S = 8.5  # below 10 s, since a library that is being imported may delay the thread
GONE_WITHIN_S = 0.5
STARTING = "starting"
SWITCH = "RUNNER_PROGRESS"  # off: no such lines

Text = str | Callable[[], str]


@dataclass(eq=False)
class _Step:
    """A running step. A step without a description is not printed."""

    text: Text | None
    began: float = field(default_factory=time.monotonic)

    def format_line(self) -> str:
        if callable(self.text):
            return self.text()
        now = time.monotonic()
        whole = (
            f", {format_duration(now - _steps[0].began)} in all" if self.began - _steps[0].began > 1 else ""
        )
        return f"{self.text} … {format_duration(now - self.began)}{whole}"


_steps: list[_Step] = []  # the innermost is the last
_running: _Heartbeat | None = None


@contextmanager
def report_step(description: Text | None) -> Iterator[None]:
    """Set the step text that the heartbeat prints while this block runs."""
    step = _Step(description)
    _steps.append(step)
    try:
        yield
    finally:
        _steps.remove(step)


def suppress_heartbeat() -> AbstractContextManager[None]:
    """Suppress heartbeat lines within this block, e.g. while waiting for the user."""
    return report_step(None)


@contextmanager
def run_heartbeat() -> Iterator[None]:
    """Run the heartbeat within this block. It prints the current step after 10 seconds without output."""
    global _running
    before, _running = _running, _Heartbeat()
    try:
        with report_step(STARTING):
            _running.start()
            yield
    finally:
        _running.stop()
        _running = before


@contextmanager
def pause_heartbeat() -> Iterator[None]:
    """Stop the heartbeat thread within this block, since a process with threads cannot fork
    safely.
    """
    running = _running
    if running is not None:
        running.stop()
    try:
        yield
    finally:
        if running is not None and running is _running:
            running.start()


class _Heartbeat:
    """Thread that prints the current step."""

    def __init__(self) -> None:
        self._first_at = time.monotonic() + FIRST_AFTER_S - _read_process_age_s()
        self._printed_at = 0.0
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def start(self) -> None:
        is_copy = os.getpid() != self._process
        if not is_copy and os.environ.get(SWITCH) != "off":
            self._ends.clear()
            self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._ends.set()
        if self._thread is not None and os.getpid() == self._process:
            self._thread.join(GONE_WITHIN_S)  # nobody may be reading stderr
            # the system's thread ends a little later than Python's
            task = Path(f"/proc/self/task/{self._thread.native_id}")
            until = time.monotonic() + GONE_WITHIN_S
            while task.exists() and time.monotonic() < until:
                time.sleep(0.0005)
        self._thread = None

    def _run(self) -> None:
        while not self._ends.wait(max(self._next_print_time() - time.monotonic(), 0.05)):
            if time.monotonic() >= self._next_print_time():
                self._print_step()

    def _next_print_time(self) -> float:
        return max(self._first_at, max(ResilientStream.written_at, self._printed_at) + SILENT_FOR_S)

    def _print_step(self) -> None:
        self._printed_at = time.monotonic()
        # the last step has just ended, or a dictionary changed while it was listed
        with suppress(IndexError, RuntimeError):
            step = _steps[-1]
            if step.text is not None:
                print_message(step.format_line())


def _read_process_age_s() -> float:
    """Return how many seconds ago this process started; 0 if the system does not report it."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return age_s if 0 <= age_s < FIRST_AFTER_S else 0.0
    return 0.0

"""Prints what a command is doing whenever nothing was printed for 10 seconds: no wait is silent.

`with doing("reading weights"):` names a step; the innermost step is printed, on stderr. One thread for each command
prints (`started`, in `entry.py`). A command that ends within 10 seconds prints none of these lines. Nothing is printed
`with silent():` around what waits for the user, or draws by itself, and nothing at all with RUNNER_PROGRESS=off.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from runner_base.console import Outlet, say
from runner_base.texts import clock

FIRST_AFTER_S = 9.5  # of the process: what ends within 10 s prints no line
SILENT_FOR_S = 8.5  # below 10 s, since a library that is being imported may delay the thread
GONE_WITHIN_S = 0.5
STARTING = "starting"
SWITCH = "RUNNER_PROGRESS"  # off: no such lines

Text = str | Callable[[], str]


@dataclass(eq=False)
class _Step:
    """A step under way. Its text may be computed when it is printed; None prints nothing."""

    text: Text | None
    began: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """Return the line to print."""
        if callable(self.text):
            return self.text()
        now = time.monotonic()
        whole = f", {clock(now - _steps[0].began)} in all" if self.began - _steps[0].began > 1 else ""
        return f"{self.text} … {clock(now - self.began)}{whole}"


_steps: list[_Step] = []  # the innermost is the last
_running: _Heartbeat | None = None


@contextmanager
def doing(text: Text | None) -> Iterator[None]:
    """Name the step that this block is, for the lines that long steps print."""
    step = _Step(text)
    _steps.append(step)
    try:
        yield
    finally:
        _steps.remove(step)


def silent() -> AbstractContextManager[None]:
    """Print no such lines within this block."""
    return doing(None)


@contextmanager
def started() -> Iterator[None]:
    """Print a line whenever this block has printed nothing for 10 seconds."""
    global _running
    before, _running = _running, _Heartbeat()
    try:
        with doing(STARTING):
            _running.start()
            yield
    finally:
        _running.stop()
        _running = before


@contextmanager
def paused() -> Iterator[None]:
    """End the thread for this block: a process that has threads cannot be copied safely."""
    running = _running
    if running is not None:
        running.stop()
    try:
        yield
    finally:
        if running is not None and running is _running:
            running.start()


class _Heartbeat:
    """The thread that prints."""

    def __init__(self) -> None:
        self._first_at = time.monotonic() + FIRST_AFTER_S - _process_age_s()
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
        while not self._ends.wait(max(self._due() - time.monotonic(), 0.05)):
            if time.monotonic() >= self._due():
                self._print()

    def _due(self) -> float:
        return max(self._first_at, max(Outlet.written_at, self._printed_at) + SILENT_FOR_S)

    def _print(self) -> None:
        self._printed_at = time.monotonic()
        # the last step has just ended, or a dictionary changed while it was listed
        with suppress(IndexError, RuntimeError):
            step = _steps[-1]
            if step.text is not None:
                say(step.line())


def _process_age_s() -> float:
    """Return for how long this process has been starting; 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return age_s if 0 <= age_s < FIRST_AFTER_S else 0.0
    return 0.0

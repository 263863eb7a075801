"""Converts termination signals to KeyboardInterrupt without leaving partially written records.

with deferred_signals():           # signals wait: what begins here also ends here
    ...
    with interruptible_block():  # the work: the first signal interrupts it
        with defer_signals_until_step_ends():  # one step of it: the first signal waits until the step ends
            ...
    ...

A second signal interrupts at once, at any point: all files survive even a kill.

A library may turn the interrupt into an error of its own, or drop it. So each interrupt
counts as unhandled until a block of this module has seen it: an error meanwhile counts as
the interrupt.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

WARNING = (signal.SIGUSR1, signal.SIGUSR2)  # Slurm sends one before a time limit (sbatch --signal)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *WARNING)
SAME_S = 0.2  # `timeout` and Slurm send a signal to a process and to its group: within this time it is the same one
INTERRUPTED = 130  # the exit code that shells report for a program ended by Ctrl-C
WAITING_S = 0.5  # after which the user is told that a signal waits for a step
AGAIN_S = 0.01  # after which a signal that was lost is sent again


class Interrupted(KeyboardInterrupt):
    """KeyboardInterrupt raised for a signal.

    A plain KeyboardInterrupt that passes through `exec` makes `python -m` end its process by
    SIGINT instead of an exit code, even if it was caught. Dataclasses and named tuples use
    `exec` while libraries are imported.
    """


@dataclass
class _SignalState:
    """State that determines how the next signal is handled."""

    in_deferred: bool = False
    is_deferring: bool = False  # whether a signal is only noted
    noted: bool = False
    first_at: float | None = None  # when the first signal of a deferred block came
    instead: Callable[[], None] | None = None  # called in place of an interrupt
    last: int = signal.SIGINT  # the signal that came last
    # whether one that was sent again did what it should; None: it has not come yet
    acted: bool | None = None
    unanswered: bool = False  # whether an interrupt was raised and nothing of ours has seen it
    tell: Callable[[], object] | None = None  # tells the user that a signal waits for a step


_state = _SignalState()


class BetweenSteps(Interrupted):
    """Raised at the end of a step during which a signal arrived. The step's results are complete."""


def format_interruption_message(interrupt: KeyboardInterrupt) -> str:
    return ": ".join(filter(None, ("interrupted", str(interrupt))))


def exit_on_signals() -> None:
    """Install handlers that exit with a message. Use this before any work starts."""
    for number in ENDING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _exit_immediately)


def _exit_immediately(*_: object) -> NoReturn:
    os.write(2, b"interrupted: nothing was begun\n")
    os._exit(INTERRUPTED)


def install_signal_handlers(
    override_ignored: bool = False, on_signal_waiting: Callable[[], object] | None = None
) -> None:
    """Install handlers that turn all termination signals into KeyboardInterrupt.

    Signals that nohup or a shell's `&` ignores stay ignored, unless `override_ignored`.
    `on_signal_waiting` is called in its own thread when a signal has to wait for a step.
    """
    _state.tell, _state.unanswered = on_signal_waiting, False
    defaults = (signal.SIG_DFL, signal.default_int_handler, _exit_immediately)
    for number in ENDING:
        if override_ignored or signal.getsignal(number) in defaults:
            signal.signal(number, handle_signal)
    if not isinstance(sys.unraisablehook, _ResendLostSignal):
        sys.unraisablehook = _ResendLostSignal(sys.unraisablehook)


@dataclass
class _ResendLostSignal:
    """Hook that sends a signal again if Python ignored the exception of its handler, such as in `__del__`."""

    others: Callable[[Any], Any]  # what handles the other exceptions

    def __call__(self, ignored: Any) -> None:
        if not isinstance(ignored.exc_value, Interrupted):
            self.others(ignored)
            return
        _state.is_deferring, _state.first_at, _state.acted = False, None, False
        threading.Thread(target=_resend_last_signal_until_handled, daemon=True).start()


def _resend_last_signal_until_handled() -> None:
    """Send the last signal again until its exception has reached the main program."""
    time.sleep(AGAIN_S)
    while not _state.acted:
        _state.acted = None
        signal.pthread_kill(threading.main_thread().ident or 0, _state.last)
        while _state.acted is None:
            time.sleep(AGAIN_S)


def _is_inside_signal_resend_hook(frame: FrameType | None) -> bool:
    """Return whether a frame belongs to the hook for lost signals, in which Python ignores exceptions."""
    while frame is not None and frame.f_code is not _ResendLostSignal.__call__.__code__:
        frame = frame.f_back
    return frame is not None


@contextmanager
def install_handlers_temporarily() -> Iterator[None]:
    """Install the signal handlers within this block. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with preserve_signal_handlers():
        install_signal_handlers()
        yield


@contextmanager
def preserve_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers after this block, because a library may install other handlers."""
    before, hook = {number: signal.getsignal(number) for number in ENDING}, sys.unraisablehook
    try:
        yield
    finally:
        mark_interrupt_handled()  # whoever called this block has seen the interrupt, or nobody will
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def handle_signal(number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
    """Handle a signal now, defer it, or raise KeyboardInterrupt, depending on the state."""
    _state.last, _state.acted = number, not _is_inside_signal_resend_hook(frame)
    if not _state.acted:
        return
    if _state.instead is not None:
        _state.instead()
        return
    now = time.monotonic()
    first_at = now if _state.first_at is None else _state.first_at
    if _state.is_deferring and now - first_at <= SAME_S:
        if not _state.noted and _state.tell is not None:
            timer = threading.Timer(WAITING_S, _notify_if_waiting, [_state.tell])
            timer.daemon = True
            timer.start()
        _state.noted, _state.first_at = True, first_at
        return
    _raise_interrupt(Interrupted, first_at)


def _notify_if_waiting(on_waiting: Callable[[], object]) -> None:
    if _state.noted:
        on_waiting()


def _raise_interrupt(error_class: type[Interrupted], first_signal_time: float | None) -> NoReturn:
    _state.noted, _state.first_at = False, first_signal_time if _state.in_deferred else None
    # the cleanup that follows is not interrupted by the same signal
    _state.is_deferring = _state.in_deferred
    _state.unanswered = True
    raise error_class


def _raise_noted_signal(error_class: type[Interrupted] = Interrupted) -> None:
    if _state.noted and not _state.is_deferring:
        _raise_interrupt(error_class, _state.first_at)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer signals within this block, except in `interruptible_block()`.

    A deferred signal interrupts at the end of the block.
    """
    before = _state.in_deferred, _state.is_deferring
    _state.in_deferred = _state.is_deferring = True
    try:
        yield
    finally:
        _state.in_deferred, _state.is_deferring = before
        if not _state.in_deferred and not _state.noted:
            _state.first_at = None
        _raise_noted_signal()


@contextmanager
def interruptible_block() -> Iterator[None]:
    """Let a signal interrupt this block, although signals are deferred in the enclosing block.

    A library's error that was caused by an interrupt is raised as Interrupted.
    """
    try:
        _state.is_deferring = False
        _raise_noted_signal()
        raise_if_interrupt_dropped()
        yield
    except KeyboardInterrupt:
        mark_interrupt_handled()
        raise
    except Exception as error:
        if has_unhandled_interrupt():
            mark_interrupt_handled()
            raise Interrupted from error
        raise
    finally:
        _state.is_deferring = _state.in_deferred


@contextmanager
def defer_signals_until_step_ends() -> Iterator[None]:
    """Delay the first signal until this block ends, and then raise InterruptedAfterStep."""
    before, _state.is_deferring = _state.is_deferring, True
    try:
        yield
    except KeyboardInterrupt:
        raise  # the second one, which has already deferred what follows
    except BaseException:
        _state.is_deferring = before
        raise
    _state.is_deferring = before
    _raise_noted_signal(BetweenSteps)


def raise_if_signal_waits() -> None:
    """Raise KeyboardInterrupt if a deferred signal is waiting. Long steps call this regularly."""
    if _state.noted:
        _raise_interrupt(Interrupted, _state.first_at)


def raise_if_interrupt_dropped() -> None:
    """Raise KeyboardInterrupt if a library has suppressed an earlier KeyboardInterrupt."""
    if _state.unanswered:
        raise Interrupted


def has_unhandled_interrupt() -> bool:
    """Return whether an interrupt was raised that nobody has marked as handled.

    An error is then its consequence.
    """
    return _state.unanswered


def mark_interrupt_handled() -> None:
    """Mark the last interrupt as handled."""
    _state.unanswered = False


def discard_waiting_signal() -> None:
    """Discard a deferred signal that the current error has already reported."""
    _state.noted = _state.unanswered = False


def sleep_interruptibly(seconds: float) -> None:
    """Sleep during a step. A signal ends the sleep early."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, SAME_S))
        raise_if_signal_waits()


@contextmanager
def redirect_signals(on_signal: Callable[[], None]) -> Iterator[None]:
    """Call `on_signal` for each signal within this block, instead of raising KeyboardInterrupt."""
    before, _state.instead = _state.instead, on_signal
    try:
        yield
    finally:
        _state.instead = before


def restore_default_handlers() -> None:
    """Let further signals end this process silently while it exits."""
    for number in ENDING:
        if signal.getsignal(number) is handle_signal:
            signal.signal(number, signal.SIG_DFL)

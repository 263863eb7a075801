"""Ending signals in one place: each becomes a KeyboardInterrupt, and the first one leaves no record
half written.

with deferred():           # signals wait: what begins here also ends here
    ...
    with interruptible():  # the work: the first signal interrupts it
        with finishing():  # one step of it: the first signal waits until it is whole
            ...
    ...

A second signal interrupts at once, wherever the process is: all files survive a kill, too.

A library may turn the interrupt into an error of its own, or drop it. So each interrupt is
unanswered until a block of this module has seen it: an error meanwhile counts as the interrupt.
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
    """A signal's KeyboardInterrupt, of a class of our own.

    `python -m` ends its process by SIGINT, and not with the exit code, if a plain one has passed
    through an `exec` of text, even if it was caught: dataclasses and named tuples are made by such
    texts while libraries are imported.
    """


@dataclass
class _State:
    """What a signal does at this moment; signals reach the main thread only."""

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


_state = _State()


class BetweenSteps(Interrupted):
    """A signal came during a step, which was finished: what is under way is whole, and can be
    kept."""


def interruption_text(stop: KeyboardInterrupt) -> str:
    """Say that a job was interrupted, and what it has said about what is kept."""
    return ": ".join(filter(None, ("interrupted", str(stop))))


def exit_at_signals() -> None:
    """Let ending signals end this process with a message: while it starts, nothing can be lost."""
    for number in ENDING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _exit_at_once)


def _exit_at_once(*_: object) -> NoReturn:
    os.write(2, b"interrupted: nothing was begun\n")
    os._exit(INTERRUPTED)


def install_handlers(even_ignored: bool = False, tell: Callable[[], object] | None = None) -> None:
    """Turn all ending signals into KeyboardInterrupts; those that nohup or a shell's `&` ignores
    stay ignored.

    tell: called in a thread of its own when a signal has to wait for a step.
    """
    _state.tell, _state.unanswered = tell, False
    defaults = (signal.SIG_DFL, signal.default_int_handler, _exit_at_once)
    for number in ENDING:
        if even_ignored or signal.getsignal(number) in defaults:
            signal.signal(number, interrupt)
    if not isinstance(sys.unraisablehook, _NotLost):
        sys.unraisablehook = _NotLost(sys.unraisablehook)


@dataclass
class _NotLost:
    """Sends a signal again whose exception was raised where Python ignores all: in a `__del__` or
    in a callback."""

    others: Callable[[Any], Any]  # what handles the other exceptions

    def __call__(self, ignored: Any) -> None:
        """Handle an exception that Python has ignored."""
        if not isinstance(ignored.exc_value, Interrupted):
            self.others(ignored)
            return
        _state.is_deferring, _state.first_at, _state.acted = False, None, False
        threading.Thread(target=_send_until_it_acts, daemon=True).start()


def _send_until_it_acts() -> None:
    """Send the last signal again, and once more each time that it comes where it would be lost
    again."""
    time.sleep(AGAIN_S)
    while not _state.acted:
        _state.acted = None
        signal.pthread_kill(threading.main_thread().ident or 0, _state.last)
        while _state.acted is None:
            time.sleep(AGAIN_S)


def _would_be_lost(frame: FrameType | None) -> bool:
    """Whether a signal has come while a lost one is handled: on a busy machine that takes longer
    than AGAIN_S."""
    while frame is not None and frame.f_code is not _NotLost.__call__.__code__:
        frame = frame.f_back
    return frame is not None


@contextmanager
def handlers_installed() -> Iterator[None]:
    """Handle signals within this block of another program; nothing is done outside its main
    thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with handlers_kept():
        install_handlers()
        yield


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers back after this block, in which a library installs its own."""
    before, hook = {number: signal.getsignal(number) for number in ENDING}, sys.unraisablehook
    try:
        yield
    finally:
        answer()  # whoever called this block has seen the interrupt, or nobody will
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt(number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
    """Handle a signal: call the function of `redirected_to`, note the signal, or raise
    KeyboardInterrupt."""
    _state.last, _state.acted = number, not _would_be_lost(frame)
    if not _state.acted:
        return
    if _state.instead is not None:
        _state.instead()
        return
    now = time.monotonic()
    first_at = now if _state.first_at is None else _state.first_at
    if _state.is_deferring and now - first_at <= SAME_S:
        if not _state.noted and _state.tell is not None:
            timer = threading.Timer(WAITING_S, _tell_if_waiting, [_state.tell])
            timer.daemon = True
            timer.start()
        _state.noted, _state.first_at = True, first_at
        return
    _raise(Interrupted, first_at)


def _tell_if_waiting(tell: Callable[[], object]) -> None:
    if _state.noted:
        tell()


def _raise(kind: type[Interrupted], first_at: float | None) -> NoReturn:
    _state.noted, _state.first_at = False, first_at if _state.in_deferred else None
    # the cleanup that follows is not interrupted by the same signal
    _state.is_deferring = _state.in_deferred
    _state.unanswered = True
    raise kind


def _act_on_noted(kind: type[Interrupted] = Interrupted) -> None:
    if _state.noted and not _state.is_deferring:
        _raise(kind, _state.first_at)


@contextmanager
def deferred() -> Iterator[None]:
    """Defer signals within this block, except in `interruptible()`; a deferred one interrupts at
    the block's end."""
    before = _state.in_deferred, _state.is_deferring
    _state.in_deferred = _state.is_deferring = True
    try:
        yield
    finally:
        _state.in_deferred, _state.is_deferring = before
        if not _state.in_deferred and not _state.noted:
            _state.first_at = None
        _act_on_noted()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal interrupt this block, which is inside of `deferred()`.

    An error that an interrupt became in a library is raised as Interrupted.
    """
    try:
        _state.is_deferring = False
        _act_on_noted()
        interrupt_if_dropped()
        yield
    except KeyboardInterrupt:
        answer()
        raise
    except Exception as error:
        if is_unanswered():
            answer()
            raise Interrupted from error
        raise
    finally:
        _state.is_deferring = _state.in_deferred


@contextmanager
def finishing() -> Iterator[None]:
    """Let the first signal wait for the end of this block, which then raises BetweenSteps."""
    before, _state.is_deferring = _state.is_deferring, True
    try:
        yield
    except KeyboardInterrupt:
        raise  # the second one, which has already deferred what follows
    except BaseException:
        _state.is_deferring = before
        raise
    _state.is_deferring = before
    _act_on_noted(BetweenSteps)


def interrupt_if_noted() -> None:
    """Raise KeyboardInterrupt if a signal waits for a step that may take minutes and is not worth
    waiting for."""
    if _state.noted:
        _raise(Interrupted, _state.first_at)


def interrupt_if_dropped() -> None:
    """Raise KeyboardInterrupt if an earlier one was caught by a library, which went on."""
    if _state.unanswered:
        raise Interrupted


def is_unanswered() -> bool:
    """Whether an interrupt was raised that nothing of ours has caught: an error is then its
    consequence."""
    return _state.unanswered


def answer() -> None:
    """Note that an interrupt was caught by who handles it."""
    _state.unanswered = False


def forget_noted() -> None:
    """Forget a signal that waits, where an error already tells why it was sent."""
    _state.noted = _state.unanswered = False


def pause(seconds: float) -> None:
    """Sleep within a step; a signal ends it."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, SAME_S))
        interrupt_if_noted()


@contextmanager
def redirected_to(function: Callable[[], None]) -> Iterator[None]:
    """Call a function for each signal within this block, instead of interrupting it."""
    before, _state.instead = _state.instead, function
    try:
        yield
    finally:
        _state.instead = before


def restore_defaults() -> None:
    """Let further signals end this process silently, while it exits."""
    for number in ENDING:
        if signal.getsignal(number) is interrupt:
            signal.signal(number, signal.SIG_DFL)

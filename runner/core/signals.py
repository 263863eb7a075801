"""SIGINT, SIGTERM and SIGHUP in one place: each becomes a KeyboardInterrupt, and none leaves a record half written.

with deferred():           # signals wait: what begins here also ends here
    ...
    with interruptible():  # the work: the first signal interrupts it, the next ones wait again
        ...
    ...
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Interrupted(KeyboardInterrupt):
    """A signal's KeyboardInterrupt, of a class of our own.

    `python -m` ends its process by SIGINT, and not with the exit code, if a plain one has passed through an `exec` of
    text, even if it was caught: dataclasses and named tuples are made by such texts while libraries are imported.
    """


@dataclass
class _State:
    """What a signal does at this moment; signals reach the main thread only."""

    in_deferred: bool = False
    is_deferring: bool = False  # whether a signal is only noted
    noted: bool = False
    instead: Callable[[], None] | None = None  # called in place of an interrupt


_state = _State()


def install_handlers(even_ignored: bool = False) -> None:
    """Turn all ending signals into KeyboardInterrupts; those that nohup or a shell's `&` ignores stay ignored."""
    for number in ENDING:
        if even_ignored or signal.getsignal(number) in DEFAULTS:
            signal.signal(number, interrupt)


@contextmanager
def handlers_installed() -> Iterator[None]:
    """Handle signals within this block of another program; nothing is done outside its main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with handlers_kept():
        install_handlers()
        yield


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers back after this block, in which a library installs its own."""
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt(*_: Any) -> None:
    """Handle a signal: call the function of `redirected_to`, note the signal, or raise KeyboardInterrupt."""
    if _state.instead is not None:
        _state.instead()
    elif _state.is_deferring:
        _state.noted = True
    else:
        _state.is_deferring = _state.in_deferred  # the cleanup that follows is not interrupted again
        raise Interrupted


@contextmanager
def deferred() -> Iterator[None]:
    """Defer signals within this block, except in `interruptible()`; a deferred one interrupts at the block's end."""
    before = _state.in_deferred, _state.is_deferring
    _state.in_deferred = _state.is_deferring = True
    try:
        yield
    finally:
        _state.in_deferred, _state.is_deferring = before
        _act_on_noted()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal interrupt this block, which is inside of `deferred()`."""
    try:
        _state.is_deferring = False
        _act_on_noted()
        yield
    finally:
        _state.is_deferring = _state.in_deferred


def _act_on_noted() -> None:
    if _state.noted and not _state.is_deferring:
        _state.noted = False
        interrupt()


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

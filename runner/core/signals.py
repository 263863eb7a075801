"""Ctrl-C, a polite kill and a closed terminal, in one place: each is a KeyboardInterrupt, and none cuts a record short.

with held():           # signals wait: what is begun here is also ended here
    ...
    with heard():      # the work: the first signal interrupts it, the next ones wait again
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


@dataclass
class _Now:
    """What a signal does at this moment; signals reach the main thread only."""

    holding: bool = False  # inside held()
    waiting: bool = False  # a signal is only noted now
    noted: bool = False
    instead: Callable[[], None] | None = None  # called in place of an interrupt


_now = _Now()


def take(even_ignored: bool = False) -> None:
    """Make KeyboardInterrupts of all signals that ask for an end; what nohup or a shell's `&` ignores stays ignored."""
    for number in ENDING:
        if even_ignored or signal.getsignal(number) in DEFAULTS:
            signal.signal(number, interrupt)


@contextmanager
def taken() -> Iterator[None]:
    """Take the signals within this block, in a program that is not ours; in its other threads nothing is to be done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    take()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt(*_: Any) -> None:
    """Do what a signal does now: call, wait, or raise KeyboardInterrupt."""
    if _now.instead is not None:
        _now.instead()
    elif _now.waiting:
        _now.noted = True
    else:
        _now.waiting = _now.holding  # the end that follows is not interrupted again
        raise KeyboardInterrupt


@contextmanager
def held() -> Iterator[None]:
    """Let signals wait within this block, but for `heard()`; one that came meanwhile interrupts at its end."""
    before = _now.holding, _now.waiting
    _now.holding = _now.waiting = True
    try:
        yield
    finally:
        _now.holding, _now.waiting = before
        _act_on_noted()


@contextmanager
def heard() -> Iterator[None]:
    """Let a signal interrupt this block, inside of `held()`."""
    try:
        _now.waiting = False
        _act_on_noted()
        yield
    finally:
        _now.waiting = _now.holding


def _act_on_noted() -> None:
    if _now.noted and not _now.waiting:
        _now.noted = False
        interrupt()


@contextmanager
def told(what: Callable[[], None]) -> Iterator[None]:
    """Call `what` for each signal within this block, instead of interrupting it."""
    before, _now.instead = _now.instead, what
    try:
        yield
    finally:
        _now.instead = before


def leave() -> None:
    """Let further signals end this process without a word: it is on its way out."""
    for number in ENDING:
        if signal.getsignal(number) is interrupt:
            signal.signal(number, signal.SIG_DFL)

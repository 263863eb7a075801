"""Models are built one at a time, whichever threads ask for them.

While transformers builds a model, some things are otherwise for the whole process: torch's default number format is
the model's, and functions that make tensors are exchanged. Two at once would put each other's back, and leave them so.
A pass of another model may run meanwhile: it names the number format of every tensor that it makes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_turn = threading.RLock()  # one load builds a bare model on its way


def one_at_a_time(build: Callable[P, R]) -> Callable[P, R]:
    """Let a function run in one thread at a time, among all that build models."""

    @wraps(build)
    def in_turn(*args: P.args, **kwargs: P.kwargs) -> R:
        with _turn:
            return build(*args, **kwargs)

    return in_turn

"""Models are built one at a time, whichever threads request them.

While transformers builds a model, it changes the whole process: torch's default number format is
the model's, and functions that make tensors are replaced. Two builds at once would restore each
other's changes, and leave them behind. A pass of another model may run meanwhile: it names the
number format of every tensor that it makes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_building = threading.RLock()  # reentrant, because a load also builds a model without weights


def one_at_a_time(build: Callable[P, R]) -> Callable[P, R]:
    """Let only one thread at a time run any of the functions that build models."""

    @wraps(build)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        with _building:
            return build(*args, **kwargs)

    return locked

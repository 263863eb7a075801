"""A lock that lets only one thread at a time build a model.

While transformers builds a model, it changes the whole process: torch's default dtype is
the model's, and functions that make tensors are replaced. Two builds at once would restore each
other's changes, and leave them behind. Another model may run a forward pass meanwhile, because it
names the dtype of every tensor that it makes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_building = threading.RLock()  # reentrant, because a load also builds a model without weights


def forbid_concurrent_builds(build_model: Callable[P, R]) -> Callable[P, R]:
    """Decorator for functions that build models. Only one thread at a time runs any of the decorated
    functions.
    """

    @wraps(build_model)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        with _building:
            return build_model(*args, **kwargs)

    return locked

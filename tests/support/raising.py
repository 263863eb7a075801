"""Errors are told apart by their code and their key; how they are worded is for tests/render and tests/golden."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from runner_base import RunnerError
from runner_base.errors import Code

E = TypeVar("E", bound=RunnerError)


@contextmanager
def raises(kind: type[E], code: Code, key: object = "") -> Iterator[pytest.ExceptionInfo[E]]:
    """Expect an error with a code and a key; values that matter are asserted on what this yields."""
    with pytest.raises(kind) as caught:
        yield caught
    assert (caught.value.code, caught.value.key) == (code, str(key)), str(caught.value)

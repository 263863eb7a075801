"""Errors are told apart by their code and their key; how they are worded is for tests/render and tests/golden."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar, cast

import pytest

from runner_base import RunnerError
from runner_base.errors import Code

E = TypeVar("E", bound=RunnerError)


def raises(
    kind: type[E], code: Code, key: object = ""
) -> AbstractContextManager[pytest.ExceptionInfo[E], bool]:
    """Expect an error with a code and a key; values that matter are asserted on what this yields."""
    # what follows can be reached: the type says that the error ends here
    return cast("AbstractContextManager[pytest.ExceptionInfo[E], bool]", _raises(kind, code, key))


@contextmanager
def _raises(kind: type[E], code: Code, key: object) -> Iterator[pytest.ExceptionInfo[E]]:
    with pytest.raises(kind) as caught:
        yield caught
    assert (caught.value.code, caught.value.key) == (code, str(key)), str(caught.value)

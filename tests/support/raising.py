"""Errors are told apart by their code and their key; how they are worded is for tests/render and tests/golden."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

import pytest

from runner_base import RunnerError
from runner_base.errors import Code


def raises(
    kind: type[RunnerError], code: Code, key: str = ""
) -> AbstractContextManager[pytest.ExceptionInfo[RunnerError], bool]:
    """Expect an error with a code and a key; values that matter are asserted on what this yields."""
    # the type says that the error ends here, so that what follows can be reached
    return cast("AbstractContextManager[pytest.ExceptionInfo[RunnerError], bool]", _raises(kind, code, key))


@contextmanager
def _raises(kind: type[RunnerError], code: Code, key: str) -> Iterator[pytest.ExceptionInfo[RunnerError]]:
    with pytest.raises(kind) as caught:
        yield caught
    assert (caught.value.code, caught.value.key) == (code, key), str(caught.value)

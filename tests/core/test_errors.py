"""Errors that become one message."""

from __future__ import annotations

import pytest

from runner.core.errors import ConfigError, JobFailed, shortage_said


def test_memory_that_runs_out_is_said_and_other_errors_are_as_they_were() -> None:
    words = r"memory ran out: DefaultCPUAllocator: can't allocate memory\. Free some"
    with pytest.raises(JobFailed, match=words), shortage_said():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    for error in (RuntimeError("shapes cannot be multiplied"), ConfigError("out of memory is in these words")):
        with pytest.raises(type(error)) as raised, shortage_said():
            raise error
        assert raised.value is error

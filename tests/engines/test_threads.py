"""The effect of importing the package on torch's threads, before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.sampled(3)
@pytest.mark.parametrize("package", ["runner", "runner_engine.sessions.base"])
@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, "None")],
    ids=["ours", "the user's count", "the user's policy"],
)
def test_waiting_threads_sleep_soon_unless_the_user_has_set_otherwise(
    package: str, variables: dict[str, str], expected: str
) -> None:
    plain = {
        key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    code = f"import sys, os, {package}; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=plain | variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [expected, "False"]

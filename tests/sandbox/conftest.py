from __future__ import annotations

import pytest

from runner.sandbox.sandbox import Sandbox


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    """Return a sandbox with all that this machine has."""
    return Sandbox()

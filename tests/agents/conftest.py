"""What several tests of agents share."""

from __future__ import annotations

import pytest

from runner.agents.sandbox import Sandbox


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    """Return a sandbox with all that this machine has."""
    return Sandbox()

"""A variable of the older tools reaches the server; needs both options."""

from __future__ import annotations

import pytest

from runner.config.variables import read_variable_overrides


def test_the_address_of_a_variable_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_URL", "http://127.0.0.1:1/v1")
    assert "model.base_url=http://127.0.0.1:1/v1" in read_variable_overrides(["profile=teacher_only"])

"""No prompt is sent to a server because a name is no model here."""

from __future__ import annotations

import pytest
from api_standin import Api

from runner.library.load import load
from runner_base.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "base_url", "said"),
    [
        ("embeded", "", 'Did you mean load("embedded")?'),
        ("gpt-4o", "", 'load("api", name="gpt-4o", base_url="http://HOST:PORT/v1") in Python'),
        ("gpt-4o", "here", 'load("api", name="gpt-4o") in Python or model=api model.name=gpt-4o on'),
    ],
)
def test_in_python_too_and_a_server_hears_nothing(
    name: str, base_url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Api() as api:
        monkeypatch.setenv("BASE_URL", base_url and f"http://127.0.0.1:{api.port}/v1")
        with pytest.raises(ConfigError) as refused:
            load(name)
        assert said in str(refused.value)
        assert api.seen == []

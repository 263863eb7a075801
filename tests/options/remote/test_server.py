"""Which key goes to which server."""

from __future__ import annotations

import pytest
from api_standin import Api
from raising import raises

from runner.options.remote.keys import ApiConfig
from runner.options.remote.server_connection import find_api_key
from runner.options.remote.server_pool import ServerPool
from runner_base.errors import ConfigError

OURS, OPENAIS = "our-own-key-123", "sk-of-openai-456"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", OPENAIS)


def model(url: str, **keys: str) -> ApiConfig:
    return ApiConfig(name="tiny", base_url=url, **keys)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url", ["https://api.openai.com/v1", "https://eu.api.openai.com/v1", "https://openai.com/v1"]
)
def test_openais_key_goes_to_openai(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_api_key(model(url)) == (OPENAIS, "OPENAI_API_KEY")
    monkeypatch.setenv("API_KEY", OURS)
    assert find_api_key(model(url)) == (OURS, "API_KEY")


@pytest.mark.parametrize(
    "url", ["https://other.com/openai.com/v1", "https://notopenai.com/v1", "https://openai.com.cn/v1"]
)
def test_openais_key_goes_nowhere_else_by_itself(url: str) -> None:
    with raises(ConfigError, "missing"):
        find_api_key(model(url))
    assert find_api_key(model(url, key_variable="OPENAI_API_KEY")) == (OPENAIS, "OPENAI_API_KEY")


def test_a_server_here_does_not_get_it_either_and_a_refusal_says_so() -> None:
    with Api(key=OPENAIS) as api:
        with ServerPool(model(api.url)) as server, raises(ConfigError, "refused") as error:
            server.list_models()
        with ServerPool(model(api.url, key_variable="OPENAI_API_KEY")) as server:
            assert server.list_models().names == ["tiny"]
    assert (
        "answered 401: Incorrect API key provided: Bearer none (API_KEY is not set. OPENAI_API_KEY is sent to "
        in str(error.value)
    )
    assert OPENAIS not in str(error.value)

"""The addresses of one or several servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from raising import raises

from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.config.override_quoting import format_sweep_override, quote_override
from runner.options.remote.addresses import is_in_domain, is_loopback_address, parse_addresses
from runner.options.remote.keys import ApiConfig
from runner_base.errors import NOT_GIVEN, Code, ConfigError

A, B = "http://a.example/v1", "http://b.example:8000/v1"


def test_a_list_means_the_same_in_any_order() -> None:
    one, other = (ApiConfig(name="x", base_url=urls) for urls in ([B, A], [A + "/", B, A]))
    assert one.base_url == other.base_url == [A, B]
    assert one.joined_addresses == f"{A}, {B}"
    assert [server.base_url for server in one.single_server_configs] == [A, B]


def test_a_list_of_one_is_that_address() -> None:
    assert ApiConfig(name="x", base_url=[A + "/"]).base_url == A
    assert ApiConfig(name="x", base_url=[A]) == ApiConfig(name="x", base_url=A)


@pytest.mark.parametrize(
    ("urls", "code", "key", "value"),
    [
        ([], "missing", "", NOT_GIVEN),
        (None, "bad_value", "model.base_url", None),
        ([A, 5], "bad_value", "model.base_url", [A, 5]),
        ([A, ""], "bad_value", "model.base_url", [A, ""]),
        (f"{A},{B}", "bad_value", "model.base_url", f"{A},{B}"),
        ([A, "b.example:8000"], "bad_value", "model.base_url", "b.example:8000"),
        ([A, "https://u:pass@h/v1"], "refused", "model.base_url", "https://h/v1"),
    ],
)
def test_wrong_addresses_are_refused(urls: object, code: Code, key: str, value: object) -> None:
    with raises(ConfigError, code, key) as error:
        ApiConfig(name="x", base_url=urls)
    assert error.value.value == value
    assert "pass@" not in str(error.value)


def test_a_list_on_the_command_line_is_one_job_and_a_sweep_is_several() -> None:
    assert quote_override(f"model.base_url=[{A},{B}?x=1]") == f"model.base_url=[{A},'{B}?x=1']"
    assert quote_override(f"model.base_url={A},{B}") == f"model.base_url={A},{B}"
    assert format_sweep_override("model.base_url", [A, B]) == f"model.base_url={A},{B}"
    config = to_runner_config(*compose_job(["model=api", "model.name=x", f"model.base_url=[{B},{A}]"]))
    assert config.model == ApiConfig(name="x", base_url=[A, B])


def test_several_addresses_without_brackets_are_explained(runner: Callable[..., Any]) -> None:
    done = runner("model=api", "model.name=x", f"model.base_url={A},{B}")
    assert done.code == 2
    assert f"If the value is a list: model.base_url=[{A},{B}]" in done.err


def test_where_a_server_is() -> None:
    assert [
        is_loopback_address(url)
        for url in ("http://127.0.0.9:1/v1", "http://localhost/v1", "http://[::1]:8/v1", A)
    ] == [True, True, True, False]
    assert is_in_domain("https://api.openai.com/v1", "openai.com")
    assert not is_in_domain("https://notopenai.com/v1", "openai.com")
    assert parse_addresses("model.base_url", "") == []

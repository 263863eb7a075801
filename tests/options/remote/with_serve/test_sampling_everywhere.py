"""A sampling parameter has the same effect in Python and for model=api with our own server; needs
both options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sampled_alike import EXACT, SAMPLINGS, answers_in_python, generated
from serving import Serving, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    return answers_in_python()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("server"), *EXACT) as started:
        yield started


@pytest.mark.thorough
@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_model_on_our_own_server(
    name: str, answers: dict[str, str], runner: Callable[..., Any], server: Serving
) -> None:
    model = server.ask("/v1/models")[1]["data"][0]["id"]
    api = ("model=api", f"model.base_url={server.url}/v1", f"model.name={model}")
    assert generated(runner, SAMPLINGS[name], *api) == answers[name]

"""A sampling parameter has the same effect on a server as in Python."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sampled_alike import EXACT, QUESTION, SAMPLINGS, TOKENS, answers_in_python
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
def test_a_server(name: str, answers: dict[str, str], server: Serving) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": TOKENS, **SAMPLINGS[name]}
    status, answer = server.ask("/v1/chat/completions", body)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, answers[name])

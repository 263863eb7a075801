"""The server's description of itself: the ranges at /openapi.json are those it checks, and /docs
loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, browser
from serving import FLOAT32, Serving, serving

from runner_engine.settings.sampling import PARAMETERS

pytestmark = pytest.mark.slow  # as a group

MINIMAL: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "7"}], "max_tokens": 1},
    "/v1/completions": {"prompt": "7", "max_tokens": 1},
    "/generate": {"prompt": "7", "max_new_tokens": 1},
    "/tokenize": {"prompt": "7"},
}
# paths with numeric parameters
WITH_NUMBERS = [path for path, body in MINIMAL.items() if len(body) > 1]
REQUIRES: dict[str, dict[str, Any]] = {
    "top_logprobs": {"logprobs": True},
    "stream_options": {"stream": True},
    "stream_interval": {"stream": True},
    "top_p": {"temperature": 1},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(
        tmp_path_factory.mktemp("described"),
        *FLOAT32,
        "tracking=none",
        "task.max_open=6",
        "task.max_new_tokens=9",
    ) as server:
        yield server


@pytest.fixture(scope="module")
def description(server: Serving) -> dict[str, Any]:
    status, answer = server.ask("/openapi.json")
    assert status == 200
    return answer


def schema_of(description: dict[str, Any], path: str) -> dict[str, Any]:
    content = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    return description["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]


def numbers(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, parameter in schema["properties"].items():
        for kind in parameter.get("anyOf", [parameter]):
            if kind.get("type") in ("number", "integer"):
                yield name, kind


@pytest.mark.thorough
@pytest.mark.parametrize("path", WITH_NUMBERS)
def test_numbers_are_accepted_exactly_in_the_described_ranges(
    server: Serving, description: dict[str, Any], path: str
) -> None:
    checked = set()
    for name, kind in numbers(schema_of(description, path)):
        step = 1 if kind["type"] == "integer" else 0.01
        least, above, most = kind.get("minimum"), kind.get("exclusiveMinimum"), kind.get("maximum")
        first = [] if above is None else [(above + step, 200), (above, 400)]
        first = first if least is None else [(least, 200), (least - step, 400)]
        last = [] if most is None else [(most, 200), (most + step, 400)]
        for value, expected in first + last:
            scores_only: dict[str, Any] = {"echo": True} if name == "max_tokens" and value == 0 else {}
            body = MINIMAL[path] | REQUIRES.get(name, {}) | {name: value} | scores_only
            status, answer = server.ask(path, body)
            assert status == expected, (name, value, answer)
            checked.add(name)
    assert {*PARAMETERS, "seed"} < checked


@pytest.mark.sampled(2)
@pytest.mark.parametrize("path", MINIMAL)
def test_the_examples_are_answered_and_unknown_parameters_are_refused(
    server: Serving, description: dict[str, Any], path: str
) -> None:
    schema = schema_of(description, path)
    example = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
    limit = {name: 9 for name in ("max_tokens", "max_new_tokens") if name in example}
    assert server.ask(path, example | limit)[0] == 200
    assert schema["additionalProperties"] is False
    assert {*MINIMAL[path], *schema.get("required", ())} <= {*schema["properties"]}
    for name, parameter in schema["properties"].items():
        for value in parameter.get("enum", ()):
            if name != "best_of":
                assert server.ask(path, MINIMAL[path] | {name: value})[0] == 200, (name, value)
    assert server.ask(path, MINIMAL[path] | {"no_such": 1})[0] == 400


def test_lists_have_the_described_limits(server: Serving, description: dict[str, Any]) -> None:
    chat, text = (
        schema_of(description, path)["properties"] for path in ("/v1/chat/completions", "/v1/completions")
    )
    one, several = text["stop"]["anyOf"][:2]
    for stop, expected in (
        (["a"] * several["maxItems"], 200), (["a"] * (several["maxItems"] + 1), 400),
        ("a" * one["maxLength"], 200), ("a" * (one["maxLength"] + 1), 400), ("", 400),
    ):  # fmt: skip
        assert server.ask("/v1/completions", MINIMAL["/v1/completions"] | {"stop": stop})[0] == expected
    most = next(kind for kind in text["prompt"]["anyOf"] if kind.get("items", {}).get("type") == "string")[
        "maxItems"
    ]
    for count, expected in ((most, 200), (most + 1, 400)):
        assert server.ask("/v1/completions", {"prompt": ["7"] * count, "max_tokens": 1})[0] == expected
    assert chat["messages"]["minItems"] == 1


def test_the_manual_names_every_path_and_loads_nothing(
    server: Serving, description: dict[str, Any], tmp_path: Path
) -> None:
    status, text = server.ask("/docs")
    assert status == 200
    for path in description["paths"]:
        assert f" {path}</code>" in text
        assert server.ask(path)[0] == (405 if path in MINIMAL else 200)
    assert "number from 0 to 10" in text
    assert "<script" not in text
    if CHROMIUM:
        with browser(tmp_path) as page:
            page.go(server.url + "/docs")
            assert page.do("document.querySelectorAll('h2').length") == len(description["paths"])
            assert page.complaints() == []
            assert {url.split("/")[2] for url in page.requested() if url.startswith("http")} == {
                server.url.split("/")[2]
            }

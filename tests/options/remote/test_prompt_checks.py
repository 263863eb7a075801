"""Servers that truncate prompts, use another tokenizer or chat template, or have too short a context."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_standin import Api

from runner.options.remote.keys import ApiConfig
from runner.options.remote.prompt_checks import LocalTokenizer, PromptLengths
from runner.options.remote.server_probe import PROMPTS
from runner_engine import Message, Request

pytestmark = pytest.mark.slow
Run = Callable[..., Any]
QUICK = ("model=api", "model.name=tiny", "model.retries=0", "tracking=none", "print=json")


@pytest.fixture
def api() -> Iterator[Api]:
    with Api(lambda body: "#### 1") as api:
        api.scores = lambda text: [("a", -0.5)]
        yield api


@pytest.fixture
def tokenizer() -> LocalTokenizer:
    return LocalTokenizer(ApiConfig(name="tiny", base_url="http://127.0.0.1:1/v1"), "embedded")


def result(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("outputs/jobs/*/result.json")
    values: dict[str, Any] = json.loads(file.read_text())
    return values


@pytest.mark.parametrize(("limit", "is_named"), [(20, True), (10**6, False)])
def test_truncated_prompts_are_named(
    runner: Run, api: Api, tmp_path: Path, limit: int, is_named: bool
) -> None:
    api.prompt_tokens = lambda text: min(len(text.split()), limit)
    assert runner(*QUICK, f"model.base_url={api.url}", "task.limit=40").code == 0
    notes = " ".join(map(str, result(tmp_path)["result"]["notes"]))
    assert ("may truncate prompts" in notes) is is_named


def test_prompts_of_equal_length_are_not_truncated() -> None:
    lengths = PromptLengths()
    for characters in (400, 410, 420, 430):
        lengths.update_longest_prompts(Request(0, "x" * characters), 100)
    assert lengths.make_notes("a") == []
    lengths.update_longest_prompts(Request(0, "x" * 900), 100)
    assert len(lengths.make_notes("a")) == 1
    lengths.update_longest_prompts(Request(0, "x" * 990), 120)
    assert lengths.make_notes("a") == [], "a longer prompt was read whole"


@pytest.mark.parametrize(
    ("further", "most", "exit_code"), [(0, 10**6, 0), (3, 10**6, 2), (0, 50, 1)],
    ids=["the same", "another template", "truncation"],
)  # fmt: skip
def test_with_a_local_tokenizer_each_prompt_is_counted(
    runner: Run, api: Api, tokenizer: LocalTokenizer, further: int, most: int, exit_code: int
) -> None:
    def count(text: str) -> int:
        tokens = tokenizer.count_prompt_tokens(Request(0, (Message("user", text),))) + further
        return tokens if text in PROMPTS else min(tokens, most)

    api.prompt_tokens = count
    words = (f"model.base_url={api.url}", "model.tokenizer=embedded", "task.limit=10")
    done = runner(*QUICK, *words)
    assert done.code == exit_code
    if exit_code == 2:
        assert api.seen == []
        assert "model.tokenizer=embedded" in done.err


@pytest.mark.parametrize(("limit", "exit_code"), [(511, 0), (512, 2)])
def test_a_context_that_holds_no_prompt_is_an_error(
    runner: Run, api: Api, limit: int, exit_code: int
) -> None:
    words = (f"model.base_url={api.url}", "task.limit=2", f"generation.max_new_tokens={limit}")
    assert runner(*QUICK, *words).code == exit_code
    assert bool(api.seen) is (exit_code == 0)

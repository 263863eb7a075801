"""A team whose model is on a server; needs both options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_standin import Api, Trouble


@pytest.mark.thorough
def test_a_team_over_a_server_elsewhere(runner: Callable[..., Any], tmp_path: Path) -> None:
    """The old tool's way of drawing, as OpenAI's API has words for it; one call is answered at the
    second try."""

    def answer(body: dict[str, Any]) -> str:
        is_programmer = "program" in str(body["messages"][0]["content"])
        return "```python\nanswer = 20 + 1\n```" if is_programmer else "The answer is 21"

    drawn = ["generation=agents", "generation.repetition_penalty=null"]
    with Api(answer) as api:
        api.troubles.append(Trouble("status", 503))
        place = ["model=api", "model.name=tiny", f"model.base_url={api.url}", "model.backoff_s=0.01"]
        done = runner(
            *place, *drawn, "task=agents", "task.mode=debate", "task.limit=2", "tracking=none", "print=json"
        )
    assert done.code == 0, done.err
    metrics = done.json()["metrics"]
    assert (metrics["calls"], metrics["code_failed"], metrics["n"], metrics["errors"]) == (10, 0, 2, 0)
    assert (len(api.answered), {body["temperature"] for body in api.seen}) == (10, {0.2})
    assert any("This program gives 21." in str(body["messages"]) for body in api.seen), "the decision is told"

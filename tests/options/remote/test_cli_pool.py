"""A job with several servers as a user sees it: real servers, one of them killed amid the job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_standin import Api

Run = Callable[..., Any]


@pytest.mark.thorough
def test_servers_with_different_models_are_one_error_before_the_job(runner: Run, tmp_path: Path) -> None:
    with Api() as one, Api() as other:
        other.models = [{"id": "tiny", "root": "/models/tiny-v2"}]
        done = runner(
            "model=api", "model.name=tiny", f"model.base_url=[{one.url},{other.url}]", "tracking=none"
        )
        assert done.code == 2
        assert "error: model.base_url: the servers serve different models" in done.err
        assert "Traceback" not in done.err
        assert one.seen == other.seen == []
    assert not list(tmp_path.glob("outputs/jobs/*/samples.jsonl"))

"""Counts of a team that are too large are rejected before a plan is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from absurd_counts import ABSURD, planned_state

from runner.config.root import RunnerConfig


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"limit": ABSURD}, "task.limit=1000000000000: the embedded data set provides at most 100,000 questions"),
        ({"num_iterations": ABSURD}, "task.num_iterations=1000000000000 with task.batch_size=4: the embedded data set provides at most 100,000 questions"),
        ({"num_rounds": ABSURD}, "task.num_rounds=1000000000000: must lie in 1..100"),
    ],
)  # fmt: skip
def test_a_count_that_would_fill_the_memory_is_rejected_by_name(
    make_config: Callable[..., RunnerConfig], keys: dict[str, Any], message: str
) -> None:
    assert planned_state(make_config, "agents", **keys).startswith(message)

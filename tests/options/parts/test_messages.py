"""Keys of parts that are written with a wrong group, or with none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["task=split", "num_parts=2"],
            "num_parts: no group or key 'num_parts'. Did you mean task.num_parts?",
        ),
        (["model.num_parts=2"], "model.num_parts: no key 'model.num_parts'. Did you mean task.num_parts?"),
    ],
)
def test_the_key_that_is_meant_is_named(
    runner: Callable[..., Any], arguments: list[str], message: str
) -> None:
    done = runner(*arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.startswith("error: ")

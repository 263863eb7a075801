"""A power cut may leave a part of result.json: the result is made again from the samples, and
nobody sees an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
STUB = ("model=stub", "task.limit=5")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99], ids=["empty", "half", "without its end"])
def test_a_result_that_a_power_cut_has_torn_is_made_again_from_the_samples(runner: Run, share: float) -> None:
    first = runner(*STUB, "print=json", "tracking=none").json()
    folder = Path(first["output_dir"])
    result, samples = folder / "result.json", folder / "samples.jsonl"
    whole, answers = json.loads(result.read_text()), samples.read_bytes()
    data = result.read_bytes()
    result.write_bytes(data[: int(share * len(data))].ljust(len(data) if share == 0.5 else 0, b"\0"))
    plan = runner(*STUB, "tracking=none", "plan=quick")
    assert (plan.code, "1 to resume" in plan.out) == (0, True), plan.out + plan.err
    again = runner(*STUB, "print=json", "tracking=none")
    assert again.code == 0, again.err
    assert (
        "result.json is incomplete, perhaps after a power failure: the runner rebuilds the result from the saved answers"
        in again.err
    )
    assert "Traceback" not in again.err
    assert samples.read_bytes() == answers, "no question is asked again"
    assert json.loads(result.read_text())["result"]["rows"] == whole["result"]["rows"]
    assert again.json()["metrics"]["accuracy"] == first["metrics"]["accuracy"]

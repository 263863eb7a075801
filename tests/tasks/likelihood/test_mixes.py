"""Which layers lose by 4 bits, on the embedded model: the divergence of mixes whose truth is
known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

TASK = (
    "task=likelihood",
    "task.limit=6",
    'task.reference="quantization=none"',
    "task.exact=true",
    "workers=1",
)


def divergences(folder: Path, key: str) -> dict[str, float]:
    """Return the KL of each job by its value of a key."""
    records = [json.loads(file.read_text()) for file in folder.glob("outputs/jobs/*/result.json")]
    return {
        record["params"][f"quantization.{key}"]: record["result"]["metrics"]["kl_nats_per_token"]
        for record in records
    }


@pytest.mark.thorough
def test_the_model_with_all_layers_skipped_is_the_model_itself(
    runner: Callable[..., Any], tmp_path: Path
) -> None:
    done = runner(
        "-m", *TASK, "quantization=nf4", "quantization.skip=[],[lm_head],[layers.0, mlp],['*']", "print=none"
    )
    assert done.code == 0, done.err
    kl = divergences(tmp_path, "skip")
    assert set(kl) == {"[]", "[lm_head]", "[layers.0, mlp]", "[*]"}
    assert kl["[*]"] == 0  # exactly: the control
    # the head of this model is in model.dtype anyway
    assert kl["[lm_head]"] == kl["[]"] > kl["[layers.0, mlp]"] > 0


@pytest.mark.thorough
def test_two_ways_to_name_the_same_layers_give_the_same_numbers(
    runner: Callable[..., Any], tmp_path: Path
) -> None:
    mixes = "{mlp:nf4},{layers:nf4,self_attn:none},{up_proj:int8,layers.0:nf4}"
    done = runner("-m", *TASK, f"quantization.overrides={mixes}", "print=none")
    assert done.code == 0, done.err
    kl = divergences(tmp_path, "overrides")
    assert kl["{mlp: nf4}"] == kl["{layers: nf4, self_attn: none}"] > 0
    assert kl["{up_proj: int8, layers.0: nf4}"] > 0

"""A scaling of RoPE on texts that fit the model's own positions is named: before the load, in the
plan, and after."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.config.resolved import resolve_job
from runner.tasks.context_length import build_needless_rope_scaling_notes
from runner_engine.settings.rope import ROPES, RopeScalingConfig, RopeYarnConfig

OWN = 1024  # of the embedded model
HURTS = (
    "the longest sequence fits into the model's 1,024 positions, so RoPE scaling can only reduce the quality. "
    "Omit rope"
)


def test_the_scalings_have_one_default_factor() -> None:
    folder = Path(__file__).parents[2] / "conf" / "rope"
    scalings = [name for name, one in ROPES.items() if issubclass(one, RopeScalingConfig)]
    factors = {name: yaml.safe_load((folder / f"{name}.yaml").read_text())["factor"] for name in scalings}
    assert len(factors) == 4
    assert set(factors.values()) == {2.0}


@pytest.mark.thorough
@pytest.mark.slow
def test_a_scaling_that_no_question_needs_is_named(runner: Callable[..., Any]) -> None:
    question = ("task.limit=2", "generation.max_new_tokens=4")
    planned = runner(*question, "rope=linear", "plan=true")
    assert f"rope=linear: {HURTS}" in planned.out
    done = runner(*question, "rope=yarn")
    assert f"note: rope=yarn: {HURTS}" in done.err, "before the load"
    assert f"note: rope=yarn: {HURTS}" in done.out
    assert "scaling has no effect" in runner(*question, "rope=dynamic").out
    assert "scaling" not in runner(*question).out
    assert HURTS not in runner(*question, "rope=linear", "rope.factor=1").out


@pytest.mark.slow
def test_a_text_that_needs_the_scaling_is_not_warned_of(runner: Callable[..., Any], tmp_path: Path) -> None:
    rows = tmp_path / "long.jsonl"
    rows.write_text(json.dumps({"text": "a b c d. " * OWN}) + "\n")
    task = ("task=likelihood", f"task.data={rows}", "rope=linear")
    short = runner(*task, "task.window=512")
    assert f"rope=linear: {HURTS}" in short.out, short.err
    long = runner(*task, f"task.window={OWN + 500}")
    assert long.code == 0, long.err
    assert "can only reduce the quality" not in long.out + long.err


@pytest.mark.thorough
@pytest.mark.slow
def test_native_beyond_its_training_is_called_so(runner: Callable[..., Any], tmp_path: Path) -> None:
    rows = tmp_path / "long.jsonl"
    rows.write_text("".join(json.dumps({"text": f"a b {letter} d. " * OWN}) + "\n" for letter in "cdef"))
    task = ("task=likelihood", f"task.data={rows}", f"task.window={OWN + 500}")
    refused = runner(*task, "plan=true")
    assert refused.code == 2
    assert (
        f"limit is {OWN} tokens. Give task.window={OWN}, or less, or rope.beyond_trained=true" in refused.out
    )
    done = runner(*task, "rope.beyond_trained=true", COLUMNS="200")
    assert done.code == 0, done.err
    assert "rope=native: the longest sequence has 1,524 tokens" in done.out
    assert "the trained context has only 1,024 positions" in done.out
    assert "theta 10000.0, beyond its trained 1,024" in done.out
    short = runner("task=likelihood", f"task.data={rows}", "task.window=512", "rope.beyond_trained=true")
    assert "rope.beyond_trained=true has no effect: no sequence is longer than 1,024 positions" in short.out


def test_what_the_user_says_of_the_training_counts(make_config: Callable[..., Any], tiny_model: Any) -> None:
    resolved = resolve_job(make_config(model=tiny_model, rope=RopeYarnConfig(factor=2)))
    assert build_needless_rope_scaling_notes(resolved, 400), "the tiny model's config names 512 positions"
    known = RopeYarnConfig(factor=2, original_max_position_embeddings=256)
    assert not build_needless_rope_scaling_notes(resolve_job(make_config(model=tiny_model, rope=known)), 400)
    assert build_needless_rope_scaling_notes(resolve_job(make_config(model=tiny_model, rope=known)), 200)

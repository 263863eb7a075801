"""An answer that fills the model's context says so, and not that generation.max_new_tokens ended it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from in_process import Finished
from opening import make_spec, open_engine

from runner_base import FinishReason
from runner_engine import LocalModelConfig, Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.model import Attention

Run = Callable[..., Finished]
ROOM = 512  # of the tiny model
LENGTH, CONTEXT = FinishReason.length, FinishReason.context


@pytest.mark.thorough
@pytest.mark.parametrize("attention", [Attention.auto, Attention.eager], ids=["stream", "batches"])
def test_the_reason_is_the_smaller_of_both_limits(tiny_model: LocalModelConfig, attention: Attention) -> None:
    engine = open_engine(make_spec(model=replace(tiny_model, attention=attention)))
    engine.load()
    prompt = "a" * (ROOM - 20)
    left = ROOM - len(engine.encode(Request(0, prompt))[1])
    assert 0 < left <= 20
    wanted = {0: left - 1, 1: left, 2: left + 1}
    requests = [Request(name, prompt, max_new_tokens=most, ignore_eos=True) for name, most in wanted.items()]
    done = {one.id: one.answer for one in complete_requests(engine, requests)}
    engine.close()
    assert [done[name].finish_reason for name in wanted] == [LENGTH, LENGTH, CONTEXT]
    assert [len(done[name].token_ids) for name in wanted] == [left - 1, left, left]


@pytest.mark.thorough
def test_a_job_counts_and_explains_it(runner: Run, tmp_path: Path) -> None:
    """The embedded model ends its answers by itself, unless there is no room."""
    room = 1024
    words = "Ann has 3 apples. " * 125
    job = ("task=generate", f"task.prompt={words}", "tracking=none", "print=json")
    full = runner(*job, "generation.max_new_tokens=2000")
    assert full.code == 0, full.err
    result = full.json()["metrics"]
    assert result["prompt_tokens"] + result["new_tokens"] == room
    assert (result["cut_off"], result["stopped_by_context"]) == (1, 1)
    limited = runner(*job, "generation.max_new_tokens=2").json()["metrics"]
    assert limited["cut_off"] == 1
    assert "stopped_by_context" not in limited

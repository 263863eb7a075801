"""Who reads the answer of a model that thinks, and where the thought is kept: each task through its
command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from thoughtful import thinking_model

from runner import load
from runner.tasks.gsm8k.reliability import count_changed_answers
from runner_base.errors import ConfigError
from runner_base.result import Answer, FinishReason, Sample
from runner_engine.embedded import MODEL_DIR

Run = Callable[..., Any]
ASKED = "Tom has 8 pens. Tom buys 5 more. How many pens does Tom have now?\nSolve it step by step. End with '#### ' and the number."
BUDGET: Any = {"thinking_tokens": 9, "max_new_tokens": 40}


def test_another_thought_before_the_same_answer_is_another_text() -> None:
    old, same, other = (
        Sample(Answer.from_text(f"<think>{text}</think>#### 7", [1], FinishReason.stop), "sha", 3, 0.1, 0)
        for text in ("so", "so", "well")
    )
    assert count_changed_answers([old], [same], "alone").metrics["texts_changed"] == 0
    counted = count_changed_answers([old], [other], "alone").metrics
    assert (counted["texts_changed"], counted["answers_changed"]) == (1, 0)


@pytest.fixture(scope="module")
def thinks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return thinking_model(tmp_path_factory.mktemp("models") / "thinks")


@pytest.mark.thorough
@pytest.mark.slow
def test_a_library_answer_is_the_answer_and_knows_its_thought(thinks: Path) -> None:
    with load(str(thinks), device="cpu", dtype="float32") as model:
        answer = model.generate(ASKED, **BUDGET)
        assert answer.thinking
        assert "think>" not in answer + answer.thinking
        assert "".join(model.stream(ASKED, **BUDGET)) == answer, "a stream has the answer alone"
        turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": answer}]
        assert model.chat([*turns, turns[0]], **BUDGET).prompt_tokens > 2 * answer.prompt_tokens
        with pytest.raises(ConfigError, match="the chat template ends in <think>"):
            model.logprobs(ASKED, "13")
    with load(device="cpu", dtype="float32") as model:
        assert model.generate(ASKED).thinking is None


@pytest.mark.thorough
@pytest.mark.slow
def test_blank_lines_behind_a_thought_do_not_stop_the_answer(thinks: Path) -> None:
    with load(
        str(thinks),
        device="cpu",
        dtype="float32",
        generation={"thinking_tokens": 9, "thinking_end": "</think>\n\n"},
    ) as model:
        free = model.generate(ASKED, max_new_tokens=40)
        assert free.startswith("\n\n")
        assert "\n" in free.strip()
        for stop in ("\n\n", "\n"):
            stopped = model.generate(ASKED, max_new_tokens=40, stop=stop)
            assert stopped == "\n\n" + free.lstrip().split(stop)[0]
            assert "".join(model.stream(ASKED, max_new_tokens=40, stop=stop)) == stopped


@pytest.mark.slow
def test_the_log_of_a_prompt_has_both(runner: Run, thinks: Path) -> None:
    budget = (f"generation.{key}={value}" for key, value in BUDGET.items())
    asked = (f"task.prompt={ASKED.splitlines()[0]}", "task.debug=true", "tracking=none", "print=json")
    done = runner("model=auto", f"model.name={thinks}", "task=generate", *asked, *budget)
    assert done.code == 0, done.err
    (completion,) = done.json()["completions"]
    assert f"completion 0, thinking: {completion['thinking']!r}" in done.err
    assert f"completion 0, text: {completion['text']!r} (" in done.err


@pytest.mark.thorough
@pytest.mark.slow
def test_given_texts_are_not_scored_as_thoughts(runner: Run, thinks: Path) -> None:
    model = ("model=auto", f"model.name={thinks}", "task=likelihood", "task.data=embedded")
    common: tuple[str, ...] = (*model, "task.limit=2", "tracking=none", "print=json")
    refused = runner(*common)
    assert refused.code == 2
    assert "the chat template ends in <think>, so a given text would be scored as a thought" in refused.err
    assert runner(*common, "task.prompt=text").code == 0
    assert runner(*common, f"model.name={MODEL_DIR}").code == 0

"""A tokenizer whose pattern has too many ways to match a text: the text is named, and others go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from odd_tokenizers import BAD, SAID, save_runaway

from runner import load
from runner_base.errors import ConfigError


@pytest.fixture(scope="module")
def runaway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_runaway(tmp_path_factory.mktemp("runaway") / "model")


def test_a_text_that_no_tokens_come_of_is_named_and_others_go_on(runaway: Path) -> None:
    with load(runaway, device="cpu") as model:
        with pytest.raises(ConfigError) as refused:
            model.generate(BAD, max_new_tokens=2)
        assert str(refused.value).startswith(f"the tokenizer of {runaway} {SAID}")
        assert BAD in str(refused.value)
        with pytest.raises(ConfigError) as refused:
            model.logprobs("a", BAD)
        assert SAID in str(refused.value)
        assert model.generate("Tom has 8 pens.", max_new_tokens=2)


@pytest.mark.slow
def test_a_job_ends_in_one_message(runner: Callable[..., Any], runaway: Path) -> None:
    done = runner(
        "model=local",
        f"model.name={runaway}",
        "model.device=cpu",
        "task=generate",
        f"task.prompt={BAD}",
        "tracking=none",
    )
    assert done.code == 2
    assert SAID in done.err
    assert "Traceback" not in done.err

"""Hostile tokenizers: patterns with too many ways to match, and replacements that make ever longer texts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import change_tokenizer
from serving import FLOAT32, serving

from runner import load
from runner_base.errors import ConfigError
from runner_engine.embedded import MODEL_DIR
from runner_engine.models.load_tokenizer import load_tokenizer
from runner_engine.models.tokenizing import check_growth, growth

BAD = "x" * 40
SAID = "cannot cut this text into tokens (the library gave up: Onig: Regex search error: retry-limit-in-match over): "
MAKE_TEN = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}


def with_tokenizer(folder: Path, **steps: Any) -> Path:
    shutil.copytree(MODEL_DIR, folder)
    change_tokenizer(folder, lambda tokenizer: tokenizer.update(steps))
    return folder


@pytest.fixture(scope="module")
def runaway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, with a pattern that tries 2 ** N ways on N letters x."""
    split = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    pre = {"type": "Sequence", "pretokenizers": [split, level]}
    return with_tokenizer(tmp_path_factory.mktemp("runaway") / "model", pre_tokenizer=pre)


def test_a_text_that_no_tokens_come_of_is_named_and_others_go_on(runaway: Path) -> None:
    with load(runaway, device="cpu") as model:
        with pytest.raises(ConfigError) as refused:
            model.generate(BAD, max_new_tokens=2)
        assert str(refused.value).startswith(f"the tokenizer of {runaway} {SAID}")
        assert BAD in str(refused.value)
        with pytest.raises(ConfigError, match="cannot cut this text"):
            model.logprobs("a", BAD)
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


@pytest.mark.slow
def test_one_prompt_does_not_end_a_server(runaway: Path, tmp_path: Path) -> None:
    with serving(
        tmp_path, *FLOAT32, "model=local", f"model.name={runaway}", "model.device=cpu", "tracking=none"
    ) as server:
        for body in (
            {"prompt": BAD},
            {"prompt": ["7", BAD]},
            {"prompt": BAD, "logprobs": 1},
            {"prompt": BAD, "stream": True},
        ):
            status, answer = server.ask("/v1/completions", body)
            assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
            assert SAID in answer["error"]["message"]
        assert server.ask("/tokenize", {"prompt": BAD})[0] == 400
        chat = {"messages": [{"role": "user", "content": BAD}]}
        assert server.ask("/v1/chat/completions", chat)[0] == 400
        assert server.ask("/v1/completions", {"prompt": "7", "max_tokens": 2})[0] == 200
        server.until(lambda now: now["runner_open"] == 0)
        assert "Traceback" not in server.err


@pytest.mark.parametrize(
    "steps",
    [
        {"normalizer": {"type": "Sequence", "normalizers": [MAKE_TEN] * 12}},
        {"decoder": {"type": "Sequence", "decoders": [MAKE_TEN] * 12 + [{"type": "Fuse"}]}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [MAKE_TEN] * 2}] * 6}},
    ],
    ids=["normalizer", "decoder", "nested"],
)  # fmt: skip
def test_replacements_that_make_ever_more_are_refused_before_the_load(tmp_path: Path, steps: dict[str, Any]) -> None:
    folder = with_tokenizer(tmp_path / "model", **steps)
    with pytest.raises(
        ConfigError, match=rf"tokenizer.json: its {next(iter(steps))} turns one character into up to 1e\+12"
    ):
        load_tokenizer("model.name=x", folder)


def test_ordinary_tokenizers_are_let_through(tmp_path: Path) -> None:
    check_growth(MODEL_DIR / "tokenizer.json")
    check_growth(tmp_path / "none.json")
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    blanks = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    dots = {"type": "Replace", "pattern": {"String": "…"}, "content": "..."}
    steps = [{"type": "Prepend", "prepend": "▁"}, *[blanks] * 20, *[dots] * 20, space]
    folder = with_tokenizer(tmp_path / "model", normalizer={"type": "Sequence", "normalizers": steps})
    assert load_tokenizer("model.name=x", folder)("…")["input_ids"]


@pytest.mark.parametrize(
    ("steps", "most"),
    [
        ([], 1),
        ([("a", False, "b")], 1),
        ([("a", False, "bb"), ("b", False, "cc"), ("c", False, "dd")], 8),
        ([("b", False, "cc"), ("a", False, "bb")], 2),  # an earlier replacement does not see the output of a later one
        ([("ab", False, "abab")] * 3, 8),
        ([("a", False, "")] * 50, 1),
        ([(".", True, "xx")] * 3, 8),
        ([("", False, "x")] * 3, 8),
        ([("x*", True, "x")] * 3, 8),
        ([(r"\p{L}", True, "xx")] * 2, 9),  # a dialect that Python does not know: it may match nothing
    ],
)
def test_growth_is_bounded_from_the_last_step_on(steps: list[tuple[str, bool, str]], most: float) -> None:
    assert growth(steps) == most

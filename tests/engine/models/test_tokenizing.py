"""Hostile tokenizers: patterns with too many ways to match, and replacements that make ever longer
texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from odd_tokenizers import with_tokenizer
from raising import raises

from runner_base.errors import ConfigError
from runner_engine.embedded import MODEL_DIR
from runner_engine.models.load_tokenizer import load_tokenizer
from runner_engine.models.tokenization import (
    compute_max_text_expansion_factor,
    reject_expanding_tokenizer_rules,
)

MAKE_TEN = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}


@pytest.mark.parametrize(
    "steps",
    [
        {"normalizer": {"type": "Sequence", "normalizers": [MAKE_TEN] * 12}},
        {"decoder": {"type": "Sequence", "decoders": [MAKE_TEN] * 12 + [{"type": "Fuse"}]}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [MAKE_TEN] * 2}] * 6}},
    ],
    ids=["normalizer", "decoder", "nested"],
)  # fmt: skip
def test_replacements_that_make_ever_more_are_refused_before_the_load(
    tmp_path: Path, steps: dict[str, Any]
) -> None:
    folder = with_tokenizer(tmp_path / "model", **steps)
    with raises(ConfigError, "too_large", folder / "tokenizer.json") as raised:
        load_tokenizer("model.name=x", folder)
    assert raised.value.reason.startswith(f"the {next(iter(steps))} ")


def test_ordinary_tokenizers_are_let_through(tmp_path: Path) -> None:
    reject_expanding_tokenizer_rules(MODEL_DIR / "tokenizer.json")
    reject_expanding_tokenizer_rules(tmp_path / "none.json")
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
        # an earlier replacement does not see the output of a later one
        ([("b", False, "cc"), ("a", False, "bb")], 2),
        ([("ab", False, "abab")] * 3, 8),
        ([("a", False, "")] * 50, 1),
        ([(".", True, "xx")] * 3, 8),
        ([("", False, "x")] * 3, 8),
        ([("x*", True, "x")] * 3, 8),
        # a dialect that Python does not know: it may match nothing
        ([(r"\p{L}", True, "xx")] * 2, 9),
    ],
)
def test_growth_is_bounded_from_the_last_step_on(steps: list[tuple[str, bool, str]], most: float) -> None:
    assert compute_max_text_expansion_factor(steps) == most

"""Hostile adapters that are converted: an error that names the file, and nothing else."""

from __future__ import annotations

from functools import partial

import corpus
import pytest
from arena import Arena
from corpus import many

from runner.options.older_tools import convert_lora

pytestmark = [pytest.mark.slow, pytest.mark.smoke(5)]


@many(corpus.PICKLES)
def test_pth_adapters(arena: Arena, case: str) -> None:
    corpus.PICKLES[case](arena.folder / "a.pth", arena.mark)
    options = convert_lora.create_parser().parse_args(["a.pth", "out", "--base", "embedded"])
    assert "a.pth" in arena.refusal(partial(convert_lora.convert_between_pth_and_peft, options))

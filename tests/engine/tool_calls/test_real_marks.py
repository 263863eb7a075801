"""Calls as published tokenizers and OpenAI's own library write them (bench/tool_marks.py) are read
as they read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner_engine.tool_calls import MalformedToolCall, import_tool_call_format

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "tool_marks.json").read_text(encoding="utf-8"))[
    "answers"
]


def read(case: dict[str, Any], text: str) -> list[list[Any]]:
    return [
        [call.name, call.arguments] for call in import_tool_call_format(case["form"]).parse_answer(text).calls
    ]


@pytest.mark.parametrize("name", RECORDED)
def test_calls_are_read_as_their_own_library_reads_them(name: str) -> None:
    assert read(RECORDED[name], RECORDED[name]["text"]) == RECORDED[name]["calls"]


@pytest.mark.parametrize("name", [name for name, case in RECORDED.items() if case["calls"]])
def test_half_of_a_call_is_none(name: str) -> None:
    """The control: an answer that ends within its last call is malformed."""
    case = RECORDED[name]
    cut = case["text"][: case["text"].rindex("}")]
    with pytest.raises(MalformedToolCall):
        read(case, cut)


def test_several_tokenizers_are_there() -> None:
    forms = [case["form"] for case in RECORDED.values()]
    assert forms.count("mistral") >= 8
    assert forms.count("harmony") == 5

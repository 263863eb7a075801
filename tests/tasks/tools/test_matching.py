"""Calls are matched as BFCL's checker matches them: its recorded verdicts, and itself where it is
installed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from bfcl_peer import changed_calls, their_checker

from runner.tasks.tools.bfcl import parse_bfcl_category
from runner.tasks.tools.matching import has_expected_tool_calls, normalize_if_text
from runner_engine.tool_calls import ToolCall

RECORDED = Path(__file__).parents[2] / "data" / "tools" / "bfcl_verdicts.jsonl"
FUNCTION = {
    "name": "f",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "price": {"type": "number"},
            "count": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["city"],
    },
}
ALLOWED = {"city": ["New York", "NYC"], "price": [2.5, 3.0, ""], "count": [4, ""], "tags": [["a", "B c"], ""]}


def matches(
    calls: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]], functions: Sequence[Any]
) -> bool:
    read = [ToolCall(*next(iter(call.items()))) for call in calls]
    return has_expected_tool_calls(read, [next(iter(call.items())) for call in wanted], functions)


def test_verdicts_are_those_that_bfcls_checker_gave() -> None:
    head, *lines = RECORDED.read_text().splitlines()
    known = json.loads(head)
    verdicts: Counter[bool] = Counter()
    for line in lines:
        number, calls, theirs = json.loads(line)
        assert matches(calls, known["wanted"][number], known["functions"]) is theirs, line
        verdicts[theirs] += 1
    assert min(verdicts.values()) > 100, (
        "both verdicts are there, so that neither a strict nor a lax matcher passes"
    )


def test_verdicts_are_those_of_bfcls_checker_on_its_own_questions() -> None:
    bfcl = pytest.importorskip(
        "bfcl_eval", reason="bfcl-eval is not installed: its recorded verdicts are compared above"
    )
    check, data = their_checker(), Path(next(iter(bfcl.__path__))) / "data"
    compared = right = 0
    for answers in sorted((data / "possible_answer").iterdir()):
        if parse_bfcl_category(answers) is None:
            continue
        questions = {it["id"]: it for it in map(json.loads, (data / answers.name).read_text().splitlines())}
        known = [json.loads(line) for line in answers.read_text().splitlines()]
        category = answers.stem.partition("_v4_")[2]
        for number, calls in changed_calls(3 * len(known), 2, [it["ground_truth"] for it in known]):
            functions, wanted = (questions[known[number]["id"]]["function"], known[number]["ground_truth"])
            theirs = check(functions, calls, wanted, category)
            assert matches(calls, wanted, functions) is theirs, (category, calls, wanted)
            compared, right = compared + 1, right + theirs
    assert compared > 5_000
    assert 0.2 < right / compared < 0.8


@pytest.mark.parametrize(
    ("arguments", "is_right"),
    [
        ({"city": "new-york."}, True),
        ({"city": "nyc", "price": 3, "count": 4, "tags": ["A", "b-c"]}, True),
        ({"city": "Boston"}, False),
        ({}, False),
        ({"city": "NYC", "price": "2.5"}, False),
        ({"city": "NYC", "count": 4.0}, False),
        ({"city": "NYC", "count": True}, False),
        ({"city": "NYC", "tags": ["B c", "a"]}, False),
        ({"city": "NYC", "further": 1}, False),
        ({"city": None}, False),
    ],
)
def test_arguments_match_by_type_and_value(arguments: dict[str, Any], is_right: bool) -> None:
    assert matches([{"f": arguments}], [{"f": ALLOWED}], [FUNCTION]) is is_right


def test_the_order_of_calls_is_free_and_each_counts_once() -> None:
    wanted = [{"f": {"city": ["Oslo"]}}, {"f": {"city": ["Lima"]}}]
    oslo, lima = {"f": {"city": "Oslo"}}, {"f": {"city": "Lima"}}
    assert matches([lima, oslo], wanted, [FUNCTION])
    assert not matches([oslo, oslo], wanted, [FUNCTION])
    assert not matches([oslo], wanted, [FUNCTION])
    assert not matches([oslo, lima, lima], wanted, [FUNCTION])


def test_texts_are_compared_without_marks_and_capitals() -> None:
    assert normalize_if_text("April 1, 2024") == normalize_if_text("april 1 2024")
    assert normalize_if_text("it's") == 'it"s'
    assert normalize_if_text(3) == 3

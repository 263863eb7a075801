from __future__ import annotations

import io
import json

import pytest
from raising import raises

from runner_base.errors import DataError
from runner_base.texts import MAX_DEPTH, format_count, iter_text_lines, parse_json


def lines(data: bytes) -> list[tuple[int, str]]:
    return list(iter_text_lines(io.BytesIO(data), "x.jsonl"))


def test_lines_with_their_numbers() -> None:
    assert lines(b"\xef\xbb\xbfone\r\n\n  \ntwo\xc2\x85still two\nthree") == [
        (1, "one"),
        (4, "two\x85still two"),
        (5, "three"),
    ]


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (b"good\nbad \xff\n", "x.jsonl, line 2"),
        (b"PAR1\x15\x04", "x.jsonl"),
        (b"\x1f\x8b\x08", "x.jsonl"),
        ("{}".encode("utf-16"), "x.jsonl"),
    ],
)
def test_what_is_no_text(data: bytes, key: str) -> None:
    with raises(DataError, "damaged", key):
        lines(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON: "),
        ("[" * 200_000, "nested deeper than 100 levels"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested deeper than 100 levels"),
        ('{"a": "\\ud800"}', "lone surrogate"),
        ('{"\\udfff": 1}', "lone surrogate"),
        ("1" * 5000, "not JSON: "),
    ],
)
def test_json_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_json_that_is_taken() -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert json.dumps(parse_json(deep)) == deep
    assert parse_json('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_a_number_agrees_with_its_noun() -> None:
    assert [format_count(number, "job") for number in (0, 1, 2, 2000)] == [
        "0 jobs",
        "1 job",
        "2 jobs",
        "2,000 jobs",
    ]
    assert format_count(1, "answer was", "answers were") == "1 answer was"
    assert format_count(2, "answer was", "answers were") == "2 answers were"

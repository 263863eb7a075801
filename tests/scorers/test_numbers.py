from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config.task import Extractor
from runner.scorers.numbers import extract, plain_number


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("3*4=12\n#### 12", "12", "12"),
        ("#### 70,000", "70000", "70000"),
        ("#### -5", "-5", "-5"),
        ("#### \N{MINUS SIGN}5", "-5", "-5"),
        ("#### 3.50", "3.5", "3.5"),
        ("#### $1,234.50", "1234.5", "1234.5"),
        ("#### $ 18", "18", "18"),
        ("#### -$3", "-3", "-3"),
        ("#### **18**", "18", "18"),
        ("#### 18.", "18", "18"),
        ("#### .5", "0.5", "0.5"),
        ("#### -0", "0", "0"),
        ("#### 1000", "1000", "1000"),
        ("#### 12\n\nNext #### 13", "12", "12"),
        ("The answer is 70,000.", None, "70000"),
        ("So it is -5", None, "-5"),
        ("It costs $3.50 in all.", None, "3.5"),
        ("10-5", None, "5"),
        ("10 - 5 = 5", None, "5"),
        ("1,2,3", None, "3"),
        ("about 12kg", None, "12"),
        ("call it x2", None, None),
        ("I do not know.", None, None),
        ("", None, None),
        ("####", None, None),
        ("#### none of the 3", None, "3"),
    ],
)
def test_extract(text: str, strict: str | None, flexible: str | None) -> None:
    assert extract(text, Extractor.strict) == strict
    assert extract(text, Extractor.flexible) == flexible


@given(st.integers(-(10**12), 10**12))
def test_extract_reads_any_whole_number_with_and_without_commas(value: int) -> None:
    for text in (f"#### {value}", f"so\n#### {value:,}", f"#### ${value:,}", f"#### {value:,}.00"):
        assert extract(text, Extractor.strict) == str(value)


@given(st.decimals(-(10**9), 10**9, places=3))
def test_plain_number_keeps_the_value(value: object) -> None:
    assert float(plain_number(f"{value:,}")) == float(str(value))

"""A value beside its limit is shown on the side on which it lies, whatever both are rounded to."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_base.number_format import (
    NumberFormatter,
    count_digits_to_distinguish_limit,
    fixed_decimals_formatter,
    format_against_limit,
    format_value_and_limit,
)
from runner_compare.render.effects import format_p_value
from runner_compare.render.labels import format_number
from runner_compare.render.quantities import (
    format_nats,
    format_percentage_points,
    format_ratio,
    format_signed,
)

whole, with_two_decimals = fixed_decimals_formatter(0), fixed_decimals_formatter(2)
WRITERS: list[NumberFormatter] = [
    whole,
    with_two_decimals,
    format_number,
    format_percentage_points,
    format_nats,
    format_signed,
    format_ratio,
]
NUMBERS = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6)


def read(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def test_a_value_that_rounding_would_put_on_its_limit_has_more_digits() -> None:
    assert format_against_limit(2.1268, 2.13, with_two_decimals) == "2.127"
    assert format_against_limit(2.12, 2.13, with_two_decimals) == "2.12", "two tell them apart"
    assert format_against_limit(2.13, 2.13, with_two_decimals) == "2.13", "it is the limit"
    assert with_two_decimals(2.1268) == "2.13", "the control: without its limit"
    assert format_against_limit(99.96, 100, format_number) == "99.96"
    assert format_value_and_limit(8191.6, 8191.5, whole) == ("8,191.6", "8,191.5")
    assert format_value_and_limit(8192.4, 8191.5, whole) == ("8,192.4", "8,191.5")
    assert format_value_and_limit(9000.4, 8191.5, whole) == ("9,000", "8,192")


def test_what_differs_by_rounding_errors_is_written_as_usual() -> None:
    assert format_against_limit(0.1 + 0.2, 0.3, with_two_decimals) == "0.30"
    assert count_digits_to_distinguish_limit([math.nan, math.inf], 1.0, with_two_decimals) == 0


def test_all_values_of_a_column_have_the_digits_of_the_closest_one() -> None:
    assert count_digits_to_distinguish_limit([6.07, 2.1268, 1.92], 2.13, with_two_decimals) == 1


@pytest.mark.sampled(1)
@pytest.mark.parametrize("write", WRITERS)
@given(value=NUMBERS, limit=NUMBERS)
def test_what_is_shown_is_on_the_same_side_as_the_value(
    write: NumberFormatter, value: float, limit: float
) -> None:
    if math.isclose(value, limit, rel_tol=1e-9, abs_tol=1e-9):
        return
    shown, shown_limit = (read(text) for text in format_value_and_limit(value, limit, write))
    scale = 100 if write is format_percentage_points else 1
    assert (shown < shown_limit) == (value < limit)
    # beside a limit that is written in full
    alone = read(format_against_limit(value, limit, write))
    assert (alone < scale * limit) == (value < limit)


def test_p_is_told_from_five_percent() -> None:
    assert [format_p_value(p) for p in (0.0496, 0.05, 0.0504, 0.04951)] == [
        "0.0496",
        "0.05",
        "0.0504",
        "0.0495",
    ]
    assert [format_p_value(p) for p in (0.0449, 0.056, 0.77, 0.99999, 0.00001)] == [
        "0.045",
        "0.056",
        "0.77",
        "1.0",
        "<0.0001",
    ]
    shown = [float(format_p_value(0.0490 + step / 20_000)) for step in range(41)]
    assert all(before <= after for before, after in pairwise(shown))

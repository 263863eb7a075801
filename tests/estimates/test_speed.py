"""The seconds of completions, from the times of passes."""

from __future__ import annotations

import pytest

from runner.config.task import RequestedCompletions
from runner.estimates.speed import Speed, interpolate_time

SPEED = Speed(
    prefill=[(10.0, 1.0), (100.0, 2.0)], decode=[(1.0, 0.1), (8.0, 0.2)], place_s=0.001, pass_tokens=100
)


@pytest.mark.parametrize(("size", "seconds"), [(1, 0.1), (1.0, 0.1), (4.5, 0.15), (8, 0.2), (15, 0.3)])
def test_times_are_interpolated_and_extrapolated(size: float, seconds: float) -> None:
    assert interpolate_time(SPEED.decode, size) == pytest.approx(seconds)


def test_a_time_is_never_below_the_measured_ones() -> None:
    assert interpolate_time([(1.0, 0.2), (8.0, 0.1)], 100) == 0.1


def test_waves_of_rows_passes_of_prompts_and_context_add_up() -> None:
    one = RequestedCompletions(None, prompt_tokens=10, new_tokens=5, completions=1)
    assert SPEED.estimate_seconds(one, 8) == pytest.approx(1.0 + 4 * (0.1 + 12.5 * 0.001))
    # two concurrent rows, then a third one alone
    three = RequestedCompletions(None, prompt_tokens=10, new_tokens=1, completions=3)
    assert SPEED.estimate_seconds(three, 2) == pytest.approx(interpolate_time(SPEED.prefill, 20) + 1.0)
    shared = RequestedCompletions(None, prompt_tokens=10, new_tokens=1, completions=3, shared_tokens=200)
    assert SPEED.estimate_seconds(shared, 2) == pytest.approx(2 * 2.0 + SPEED.estimate_seconds(three, 2)), (
        "a beginning is read once"
    )
    long = RequestedCompletions(None, prompt_tokens=200, new_tokens=1, completions=1)
    assert SPEED.estimate_seconds(long, 1) == pytest.approx(2 * 2.0)

"""The time left: by the speed since the work began, without the load and without what an earlier
run had done."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from runner_base import progress
from runner_base.progress import Progress, ProgressState


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[ProgressState], list[float]]]:
    """Yield the steps that are reported, and the clock, whose last number is now."""
    seen: list[ProgressState] = []
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[-1])
    progress.set_progress_sink(seen.append)
    yield seen, now
    progress.set_progress_sink(None)


def test_the_load_and_what_was_done_before_do_not_count(
    steps: tuple[list[ProgressState], list[float]],
) -> None:
    seen, now = steps
    with Progress(100, "loading") as bar:
        now.append(30.0)
        bar.set_title("gsm8k")
        bar.set_position(40)  # of an interrupted run
        assert seen[-1].left_s is None
        now.append(40.0)
        bar.set_position(45)
    assert seen[-1].left_s == pytest.approx(55 * 10 / 5)


def test_the_speed_is_the_mean_and_not_that_of_the_last_seconds(
    steps: tuple[list[ProgressState], list[float]],
) -> None:
    seen, now = steps
    with Progress(100, "gsm8k") as bar:
        for at, done in ((10.0, 50), (11.0, 50.1), (20.0, 50.2)):  # a bunch of answers, then nearly nothing
            now.append(at)
            bar.set_position(done)
    assert seen[-1].left_s == pytest.approx(49.8 * 20 / 50.2)


def test_work_whose_every_step_has_a_description_shows_the_time_left(
    steps: tuple[list[ProgressState], list[float]],
) -> None:
    seen, now = steps
    with Progress(10, "sweep") as bar:
        now.append(100.0)  # the load
        for number in range(3):
            bar.set_title(f"batch {number}")
            assert seen[-1].left_s == (None if number == 0 else pytest.approx((10 - number) * 5.0))
            now.append(now[-1] + 5.0)
            bar.advance()
    assert seen[-1].left_s == pytest.approx(7 * 5.0)


def test_steps_that_an_earlier_start_has_made_say_nothing_about_the_speed(
    steps: tuple[list[ProgressState], list[float]],
) -> None:
    seen, now = steps
    with Progress(10, "sweep") as bar:
        for number in range(6):
            bar.set_title(f"batch {number}")
            bar.skip()
        bar.set_title("batch 6")
        assert seen[-1].left_s is None
        now.append(8.0)
        bar.advance()
    assert seen[-1].left_s == pytest.approx(3 * 8.0)

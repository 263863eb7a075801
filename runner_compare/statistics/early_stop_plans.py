"""Simulates statistical power and sample size of jobs with early stopping.

The anytime-valid test may decide after any question, and pays for it: for the same power it
needs up to twice the questions of a fixed sample. The final test of all questions saves a part
of them. Simulated courses have a fixed seed, and are evaluated at regular intervals.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from runner_compare.statistics.early_stop_test import WITH_FINAL_TEST
from runner_compare.statistics.margins import MAX_QUESTIONS, shows_non_inferiority_by_score
from runner_compare.statistics.sequential import compute_log_e_values
from runner_compare.statistics.stats import POWER, find_detectable_paired_difference, normal_quantile

COURSES = 2_000  # a power has an error of 0.9 points
LOOKS = 200  # of a course: more would find it decided a little earlier
ROUNDS = 5  # of the search for a difference: to a twentieth of what is found
WIDER = 4.0  # the most times that a fixed sample's difference is looked for


def simulate_early_stop_power(
    questions: int, noise_rate: float, loss: float, level: float, stops_at_margin: float | None = None
) -> float:
    """Return the power to detect a loss of accuracy with early stopping.

    `stops_at_margin`: the job stops once it is decided whether it is as good within this
    margin.
    """
    stops = _simulate_questions_until_decision(questions, noise_rate, loss, level, stops_at_margin)
    is_worse = (stops.worse <= questions) & (stops.worse <= stops.as_good)
    return float((is_worse | stops.is_worse_finally).mean())


def find_early_stop_detectable_loss(
    questions: int, noise_rate: float, level: float, stops_at_margin: float | None = None
) -> float | None:
    """Return the smallest loss that early stopping detects with 80 % power; None if there is none."""
    least = find_detectable_paired_difference(questions, noise_rate, level)
    if least is None:
        return None
    low, high = 0.8 * least, min(1.0, WIDER * least)
    if simulate_early_stop_power(questions, noise_rate, high, level, stops_at_margin) < POWER:
        return None
    for _ in range(ROUNDS):
        middle = math.sqrt(low * high)
        is_found = simulate_early_stop_power(questions, noise_rate, middle, level, stops_at_margin) >= POWER
        low, high = (low, middle) if is_found else (middle, high)
    return high


def plan_early_stopping_sample_size(
    margin: float, noise_rate: float, level: float, fixed_sample_size: int, stops_at_margin: bool
) -> int | None:
    """Return the number of questions needed to show non-inferiority with 80 % power.

    The plan assumes that neither run is better. `fixed_sample_size` is the number for a test
    without early stopping. A job without a margin also stops where it seems worse.
    """
    most = 2 * fixed_sample_size
    while most <= MAX_QUESTIONS:
        stops = _simulate_questions_until_decision(most, noise_rate, 0.0, level, margin)
        as_good = stops.as_good if stops_at_margin else stops.as_good[stops.as_good <= stops.worse]
        for limit, num_finally in stops.as_good_finally.items():
            if (as_good <= limit).sum() + num_finally >= POWER * COURSES:
                return limit
        most *= 2
    return None


@dataclass(frozen=True)
class SimulatedStops:
    """Decisions of simulated jobs. The arrays have one value per job."""

    worse: Any  # questions after which the anytime-valid test decides; infinity if never
    as_good: Any
    is_worse_finally: Any  # whether the final test decides at the last question
    as_good_finally: dict[int, int]  # jobs that the final test decides, by the number of questions


@lru_cache(maxsize=256)
def _simulate_questions_until_decision(
    questions: int, noise_rate: float, loss: float, level: float, margin: float | None
) -> SimulatedStops:
    """Simulate the number of questions after which `worse` and `as good` become significant."""
    import numpy as np  # takes a tenth of a second, and only such plans need it

    generator, enough = np.random.default_rng(0), math.log(2 / (level * WITH_FINAL_TEST.sequential))
    final_level = level * WITH_FINAL_TEST.final
    rate = min(1.0, noise_rate + loss)
    chances = [(rate - loss) / 2, (rate + loss) / 2, max(0.0, 1 - rate)]
    decided = np.full((2, COURSES), math.inf)
    ends = np.unique(np.linspace(0, questions, LOOKS + 1).round().astype(int)).tolist()
    counts, course = np.zeros((COURSES, 3)), np.arange(COURSES)
    as_good_finally = dict.fromkeys(ends[1:], 0)
    for begin, end in itertools.pairwise(ends):
        counts += generator.multinomial(end - begin, chances, size=len(course))
        is_worse = compute_log_e_values(counts[:, [1, 0, 2]], 0.0) >= enough
        decided[0, course[is_worse]] = np.minimum(decided[0, course[is_worse]], end)
        is_done = is_worse
        if margin is not None:
            is_done = compute_log_e_values(counts, -margin) >= enough
            decided[1, course[is_done]] = end
        counts, course = counts[~is_done], course[~is_done]
        if margin is not None:
            shown = shows_non_inferiority_by_score(counts[:, 0], counts[:, 1], end, margin, final_level)
            as_good_finally[end] = int(shown.sum())
    is_worse_finally = np.zeros(COURSES, dtype=bool)
    is_worse_finally[course] = _are_losses_significant(counts[:, 0], counts[:, 1], final_level)
    return SimulatedStops(decided[0], decided[1], is_worse_finally, as_good_finally)


def _are_losses_significant(wins: Any, losses: Any, level: float) -> Any:
    """Return where McNemar's test with a continuity correction shows more losses than wins."""
    import numpy as np

    return losses - wins - 1 >= normal_quantile(level) * np.sqrt(wins + losses)

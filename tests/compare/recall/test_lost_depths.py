"""Where in texts recall is lost: the range of depths is found, and none where the depth does not
matter."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from runner_compare.statistics.lost_depths import DepthAnswer, find_depths_with_recall_loss

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTHS = (1024, 2048, 4096)


def answers(
    recall: Callable[[int, float], float], a_cell: int, is_same_at_depths: bool = False, seed: int = 0
) -> list[DepthAnswer]:
    """Draw answers with this chance to be right, by length and depth."""
    generator = np.random.default_rng(seed)
    return [
        DepthAnswer(
            length,
            depth,
            float(generator.random() < recall(length, depth)),
            "single",
            str(number) if is_same_at_depths else f"{depth} {number}",
        )
        for length in LENGTHS
        for depth in DEPTHS
        for number in range(a_cell)
    ]


def middle(length: int, depth: float) -> float:
    """Return the chance of a model that forgets the middle of a long text."""
    return 0.0 if length == 4096 and 0 < depth < 1 else 0.95


@pytest.mark.parametrize("is_same_at_depths", [False, True])
@pytest.mark.parametrize("a_cell", [5, 20])
def test_the_middle_is_found_where_it_is_lost(a_cell: int, is_same_at_depths: bool) -> None:
    found = find_depths_with_recall_loss(answers(middle, a_cell, is_same_at_depths), num_permutations=999)
    assert [lost.length for lost in found] == [*LENGTHS]
    (lost,) = (lost for lost in found if lost.is_significant)
    assert (lost.length, lost.first, lost.last, lost.recall) == (4096, 0.25, 0.75, 0.0)
    assert lost.rest > 0.8


@pytest.mark.thorough
@pytest.mark.parametrize("is_same_at_depths", [False, True])
def test_a_depth_that_does_not_matter_is_rarely_found(is_same_at_depths: bool) -> None:
    shown = sum(
        any(
            lost.is_significant
            for lost in find_depths_with_recall_loss(
                answers(lambda *_: 0.7, 8, is_same_at_depths, seed), num_permutations=199
            )
        )
        for seed in range(120)
    )
    assert shown <= 12, "6 are expected at most"
    by_eye = sum(_lowest_is_far_below(answers(lambda *_: 0.7, 8, seed=seed)) for seed in range(120))
    assert by_eye > 60, "the control: the lowest cell is usually 25 points below the others"


def _lowest_is_far_below(drawn: list[DepthAnswer]) -> bool:
    cells = [
        np.mean([it.share for it in drawn if (it.length, it.depth) == cell])
        for cell in itertools.product(LENGTHS, DEPTHS)
    ]
    return bool(min(cells) < np.mean(cells) - 0.25)


def test_the_p_of_one_length_is_that_of_all_permutations() -> None:
    pattern = (1.0, 1.0, 0.0)
    drawn = [
        DepthAnswer(1024, depth, share, "single", str(q))
        for q in range(4)
        for depth, share in enumerate(pattern)
    ]
    (lost,) = find_depths_with_recall_loss(drawn, num_permutations=20_000)
    assert (lost.first, lost.last, lost.recall, lost.rest) == (2, 2, 0.0, 1.0)
    # the largest distance that there is: all four at one end, or at the other, or in the middle
    assert lost.p == pytest.approx(3 / 3**4, abs=0.004)


def test_settings_share_the_error_and_answers_that_are_all_alike_show_nothing() -> None:
    drawn = answers(middle, 5)
    one, ten = (
        min(lost.p for lost in find_depths_with_recall_loss(drawn, families, num_permutations=999))
        for families in (1, 10)
    )
    assert ten == pytest.approx(10 * one)
    assert all(
        lost.p == 1.0
        for lost in find_depths_with_recall_loss(answers(lambda *_: 1.0, 5), num_permutations=99)
    )
    assert find_depths_with_recall_loss([it for it in drawn if it.depth == 0.5]) == []


def test_the_same_answers_have_the_same_p() -> None:
    drawn = answers(middle, 5)
    assert find_depths_with_recall_loss(drawn, num_permutations=199) == find_depths_with_recall_loss(
        drawn, num_permutations=199
    )

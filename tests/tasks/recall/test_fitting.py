from __future__ import annotations

import random

import pytest

from runner.tasks.recall.cases import Case, RenderedCase
from runner.tasks.recall.fillers import Filler
from runner.tasks.recall.fitting import SizeGroup, set_largest_fitting_text_sizes

MANY = 10**9


def case(tokens_a_unit: float, base: int, most: int | None = None) -> Case:
    return Case(
        "single",
        0,
        None,
        lambda size: RenderedCase("", "x" * (base + int(size * tokens_a_unit)), "", "", ()),
        1,
        most,
    )


def count(asked: list[RenderedCase]) -> list[int]:
    return [len(each.context) for each in asked]


@pytest.mark.parametrize("seed", range(20))
def test_the_largest_size_that_fits_is_found(seed: int) -> None:
    draw = random.Random(seed)
    cases = [case(draw.uniform(1, 60), draw.randrange(5, 90)) for _ in range(4)]
    group = SizeGroup(4096, draw.randrange(200, 4000), cases)
    set_largest_fitting_text_sizes(
        [group],
        lambda _, tokens: int(tokens / draw.uniform(1, 60)),
        count,  # type: ignore[arg-type]
        "room",
    )
    longest = [max(len(each.at(size).context) for each in cases) for size in (group.size, group.size + 1)]
    assert longest[0] <= group.room
    assert longest[1] > group.room or longest[0] >= 0.9 * group.room


def test_a_text_that_ends_is_taken_whole() -> None:
    group = SizeGroup(4096, 4000, [case(3, 10, most=50)])
    set_largest_fitting_text_sizes([group], lambda _, tokens: tokens // 3, count, "room")  # type: ignore[arg-type]
    assert group.size == 50


def test_boundaries_are_nearest_in_tokens() -> None:
    filler = Filler(["a ", "b ", "c\n"], [1, 10, 1])
    assert [filler.count_filler_units_before_depth(3, depth) for depth in (0, 0.05, 0.5, 0.9, 1)] == [
        0,
        1,
        1,
        2,
        3,
    ]
    assert filler.count_tokens(7) == 25
    assert filler.join_units(2, 5) == "c\na b "
    assert [filler.get_separator_after_needle(end) for end in (1, 3, 6)] == [" ", "\n", "\n"]
    assert filler.count_units_for_tokens(24) == 6

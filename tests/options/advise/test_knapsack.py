"""The knapsack: the least sum within a limit, as trying all choices finds it, also where greedy
choices fail."""

from __future__ import annotations

import random
from itertools import product

import pytest

from runner.options.advise import knapsack
from runner.options.advise.knapsack import (
    LayerOption,
    assign_largest_fitting_formats_greedily,
    choose_formats_greedily,
    find_best_layer_format_swaps,
    solve_knapsack,
    total_loss,
    total_nbytes,
)


def drawn(draw: random.Random, layers: int) -> list[list[LayerOption]]:
    """Draw layers of a few sizes; a larger format loses less, but not always."""
    return [
        [LayerOption(bits * size, draw.random() / bits) for bits in (4, 8, 16)]
        for size in (draw.choice((3, 5, 12)) for _ in range(layers))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_trying_all_choices_finds(seed: int) -> None:
    draw = random.Random(seed)
    layers = drawn(draw, 6)
    sizes = [[option.nbytes for option in options] for options in layers]
    limit = draw.randrange(sum(map(min, sizes)), sum(map(max, sizes)) + 1)
    fitting = [it for it in product(range(3), repeat=6) if total_nbytes(layers, it) <= limit]
    found = solve_knapsack(layers, limit)
    assert found is not None
    assert total_nbytes(layers, found) <= limit
    assert total_loss(layers, found) == pytest.approx(min(total_loss(layers, it) for it in fitting))


def test_greedy_fails_where_the_best_gain_for_a_byte_leaves_no_room() -> None:
    small, spare = LayerOption(4, 10.0), 10
    layers = [[small, LayerOption(10, 3.4)], [small, LayerOption(9, 5.0)], [small, LayerOption(9, 5.0)]]
    limit = 3 * 4 + spare
    # 1.1 for a byte, and then four bytes that are of no use
    assert choose_formats_greedily(layers, limit) == (1, 0, 0)
    assert solve_knapsack(layers, limit) == (0, 1, 1)  # 1.0 for a byte, and all of it is used
    assert total_loss(layers, (0, 1, 1)) < total_loss(layers, (1, 0, 0))


def test_what_does_not_fit_is_none_and_more_states_than_are_kept_stay_within_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = drawn(random.Random(1), 30)
    least = sum(min(option.nbytes for option in options) for options in layers)
    assert solve_knapsack(layers, least - 1) is None
    assert choose_formats_greedily(layers, least - 1) is None
    exact = solve_knapsack(layers, least + 301)
    monkeypatch.setattr(knapsack, "MOST_STATES", 40)
    roughly = solve_knapsack(layers, least + 301)
    assert exact is not None
    assert roughly is not None
    assert total_nbytes(layers, roughly) <= least + 301
    assert total_loss(layers, exact) <= total_loss(layers, roughly) <= 1.1 * total_loss(layers, exact)


def test_neighbours_have_the_same_size_and_the_order_of_layers_needs_no_losses() -> None:
    layers = drawn(random.Random(2), 8)
    limit = sum(options[1].nbytes for options in layers)
    chosen = solve_knapsack(layers, limit)
    assert chosen is not None
    for other in (near := find_best_layer_format_swaps(layers, chosen, limit, 3)):
        assert total_nbytes(layers, other) == total_nbytes(layers, chosen)
        assert total_loss(layers, other) >= total_loss(layers, chosen)
        assert sum(one != another for one, another in zip(chosen, other, strict=True)) == 2
    assert near
    without_losses = [[LayerOption(option.nbytes, 0.0) for option in options] for options in layers]
    first = assign_largest_fitting_formats_greedily(layers, limit)
    assert first == assign_largest_fitting_formats_greedily(without_losses, limit)
    assert first is not None
    assert first[0] == 2
    assert total_nbytes(layers, first) <= limit

"""The knapsack: the least sum within a limit, as trying all choices finds it, also where greedy
choices fail."""

from __future__ import annotations

import random
from itertools import product

import pytest

from runner.options.advise import knapsack
from runner.options.advise.knapsack import Option, best, greedy, in_order, loss_of, neighbours, size_of


def drawn(draw: random.Random, layers: int) -> list[list[Option]]:
    """Draw layers of a few sizes; a larger format loses less, but not always."""
    return [
        [Option(bits * size, draw.random() / bits) for bits in (4, 8, 16)]
        for size in (draw.choice((3, 5, 12)) for _ in range(layers))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_trying_all_choices_finds(seed: int) -> None:
    draw = random.Random(seed)
    layers = drawn(draw, 6)
    sizes = [[option.nbytes for option in options] for options in layers]
    limit = draw.randrange(sum(map(min, sizes)), sum(map(max, sizes)) + 1)
    fitting = [it for it in product(range(3), repeat=6) if size_of(layers, it) <= limit]
    found = best(layers, limit)
    assert found is not None
    assert size_of(layers, found) <= limit
    assert loss_of(layers, found) == pytest.approx(min(loss_of(layers, it) for it in fitting))


def test_greedy_fails_where_the_best_gain_for_a_byte_leaves_no_room() -> None:
    small, spare = Option(4, 10.0), 10
    layers = [[small, Option(10, 3.4)], [small, Option(9, 5.0)], [small, Option(9, 5.0)]]
    limit = 3 * 4 + spare
    # 1.1 for a byte, and then four bytes that are of no use
    assert greedy(layers, limit) == (1, 0, 0)
    assert best(layers, limit) == (0, 1, 1)  # 1.0 for a byte, and all of it is used
    assert loss_of(layers, (0, 1, 1)) < loss_of(layers, (1, 0, 0))


def test_what_does_not_fit_is_none_and_more_states_than_are_kept_stay_within_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = drawn(random.Random(1), 30)
    least = sum(min(option.nbytes for option in options) for options in layers)
    assert best(layers, least - 1) is None
    assert greedy(layers, least - 1) is None
    exact = best(layers, least + 301)
    monkeypatch.setattr(knapsack, "MOST_STATES", 40)
    roughly = best(layers, least + 301)
    assert exact is not None
    assert roughly is not None
    assert size_of(layers, roughly) <= least + 301
    assert loss_of(layers, exact) <= loss_of(layers, roughly) <= 1.1 * loss_of(layers, exact)


def test_neighbours_have_the_same_size_and_the_order_of_layers_needs_no_losses() -> None:
    layers = drawn(random.Random(2), 8)
    limit = sum(options[1].nbytes for options in layers)
    chosen = best(layers, limit)
    assert chosen is not None
    for other in (near := neighbours(layers, chosen, limit, 3)):
        assert size_of(layers, other) == size_of(layers, chosen)
        assert loss_of(layers, other) >= loss_of(layers, chosen)
        assert sum(one != another for one, another in zip(chosen, other, strict=True)) == 2
    assert near
    without_losses = [[Option(option.nbytes, 0.0) for option in options] for options in layers]
    first = in_order(layers, limit)
    assert first == in_order(without_losses, limit)
    assert first is not None
    assert first[0] == 2
    assert size_of(layers, first) <= limit

"""How often edges survive: exact against chance; graphs that were pruned by chance show nothing, a
kept edge does."""

from __future__ import annotations

import random

import pytest
from scipy.stats import binom, poisson_binom

from runner.options.agents.survival import EdgeOfSeed, EdgesOfSeed, SurvivalTable, count_p, survival_of
from runner_compare.statistics.stats import wilson_interval

EDGES = [(source, target) for source in range(4) for target in range(4) if source != target]


def pruned(draw: random.Random, always: tuple[int, int] | None = None) -> EdgesOfSeed:
    """Seven of twelve edges, by chance, besides one that is always kept."""
    others = [edge for edge in EDGES if edge != always]
    kept = {always, *draw.sample(others, 6)} if always else set(draw.sample(others, 7))
    return {edge: EdgeOfSeed(edge in kept, 0.6) for edge in EDGES}


def test_p_is_that_of_the_exact_distribution() -> None:
    shares = [0.2, 0.5, 0.9, 0.4]
    for count in range(5):
        tails = poisson_binom.cdf(count, shares), poisson_binom.sf(count - 1, shares)
        assert count_p(count, shares) == pytest.approx(min(1.0, 2 * min(tails)))
    assert count_p(10, [0.5] * 10) == pytest.approx(2 * binom.pmf(10, 10, 0.5))


def test_chance_is_seldom_taken_for_more() -> None:
    draw, tables = random.Random(0), 300
    wrong = 0
    for _ in range(tables):
        wrong += any(it.finding for it in survival_of({"spatial": [pruned(draw) for _ in range(10)]}))
    assert wilson_interval(wrong, tables)[0] <= 0.05


def test_an_edge_that_every_seed_keeps_is_found_with_enough_seeds() -> None:
    draw = random.Random(1)
    for seeds, shown in ((5, False), (20, True)):
        edges = survival_of({"spatial": [pruned(draw, (2, 1)) for _ in range(seeds)]})
        kept = next(it for it in edges if (it.source, it.target) == (2, 1))
        assert (kept.survived, kept.seeds) == (seeds, seeds)
        assert kept.probability == pytest.approx(0.6)
        assert kept.finding == ("more often than chance" if shown else "")
        assert SurvivalTable("job", (), seeds, edges).can_show is shown


def test_an_edge_counts_only_where_the_graph_allows_it() -> None:
    seeds = [
        {(0, 1): EdgeOfSeed(True, 0.8)},
        {(0, 1): EdgeOfSeed(False, 0.4), (1, 0): EdgeOfSeed(True, 0.5)},
        {},
    ]
    first, second = survival_of({"temporal": seeds})
    assert (first.survived, first.seeds) == (1, 2)
    assert first.probability == pytest.approx(0.4), "0 where it was pruned"
    assert (second.survived, second.seeds, second.kind) == (1, 1, "temporal")
    assert first.by_chance == pytest.approx((1 + 0.5) / 2)

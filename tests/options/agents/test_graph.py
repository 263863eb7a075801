"""Masks of every topology, rounds without cycles, and the log-probabilities of what was drawn."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.options.agents.graph import Edge, Graph, Round, compute_edge_log_probability, sigmoid
from runner.options.agents.keys import Topology

MODES = list(Topology)


def as_rows(text: str) -> list[list[int]]:
    """`011 001 000`: a matrix as it reads."""
    return [[int(cell) for cell in row] for row in text.split()]


@pytest.mark.parametrize(
    ("mode", "spatial", "temporal"),
    [
        (Topology.direct_answer, "0", "0"),
        (Topology.full_connected, "0111 1011 1101 1110", "1111 1111 1111 1111"),
        (Topology.chain, "0100 0010 0001 0000", "0000 0000 0000 1000"),
        (Topology.debate, "0000 0000 0000 0000", "1111 1111 1111 1111"),
        (Topology.star, "0111 0011 0001 0000", "1111 1111 1111 1111"),
    ],
)
def test_masks_of_topologies_that_no_seed_decides(mode: Topology, spatial: str, temporal: str) -> None:
    for seed in (0, 1):
        graph = Graph.create_from_topology(mode, 4, seed=seed)
        assert graph.spatial.allowed.astype(int).tolist() == as_rows(spatial)
        assert graph.temporal.allowed.astype(int).tolist() == as_rows(temporal)
        assert (graph.spatial.live == graph.spatial.allowed).all()


def test_layered_puts_everybody_into_one_of_two_layers() -> None:
    seen = set()
    for seed in range(40):
        graph = Graph.create_from_topology(Topology.layered, 5, seed=seed)
        speakers = {source for source, _ in graph.spatial.list_live()}
        listeners = {target for _, target in graph.spatial.list_live()}
        assert (len(speakers), len(listeners)) == (3, 2)
        assert speakers | listeners == set(range(5))
        assert graph.spatial.num_live == 6, "everybody of the first layer speaks to everybody of the second"
        assert graph.temporal.num_live == 25
        seen.add(frozenset(speakers))
    assert len(seen) == 10, "the seed chooses among all ways to choose 3 of 5"


def test_random_takes_each_edge_half_of_the_time() -> None:
    graphs = [Graph.create_from_topology(Topology.random, 4, seed=seed) for seed in range(400)]
    spatial = np.mean([graph.spatial.allowed for graph in graphs], axis=0)
    assert (np.diag(spatial) == 0).all()
    assert np.abs(spatial[~np.eye(4, dtype=bool)] - 0.5).max() < 0.12  # 4.8 standard errors
    assert np.abs(np.mean([graph.temporal.allowed for graph in graphs], axis=0) - 0.5).max() < 0.12


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_gives_the_same_graph_and_the_same_rounds(mode: Topology) -> None:
    def drawn(seed: int) -> tuple[Graph, list[Round]]:
        graph = Graph.create_from_topology(mode, 6, seed=seed, train_spatial=True, train_temporal=True)
        rng = random.Random(seed)
        return graph, [graph.draw_round_edges(rng, number) for number in range(5)]

    (one, rounds), (same, same_rounds) = drawn(7), drawn(7)
    assert one.spatial.allowed.tolist() == same.spatial.allowed.tolist()
    assert rounds == same_rounds
    if mode is not Topology.direct_answer:
        assert rounds != drawn(8)[1]


@pytest.mark.parametrize("mode", MODES)
def test_a_team_of_one_hears_nobody_and_may_remember_itself(mode: Topology) -> None:
    graph = Graph.create_from_topology(mode, 1, seed=3)
    later = graph.draw_round_edges(random.Random(0), 1)
    assert graph.draw_round_edges(random.Random(0), 0) == Round((), (), (), 0.0)
    assert later.spatial == ()
    always = mode not in (Topology.direct_answer, Topology.random)
    assert later.temporal_sources(0) == ((0,) if always or graph.temporal.num_live else ())


def test_direct_answer_is_one_agent_whatever_is_asked() -> None:
    graph = Graph.create_from_topology(
        Topology.direct_answer, 4, seed=0, train_spatial=True, train_temporal=True
    )
    assert graph.num_agents == 1
    assert graph.draw_round_edges(random.Random(0), 1) == Round((), (), (), 0.0)


def test_a_fixed_round_takes_each_edge_that_closes_no_cycle() -> None:
    graph = Graph.create_from_topology(Topology.full_connected, 4, seed=0)
    first, second = (graph.draw_round_edges(random.Random(0), number) for number in (0, 1))
    assert first.spatial == ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    assert (first.temporal, len(second.temporal)) == ((), 16)
    assert (first.choices, first.log_prob) == ((), 0.0), "nothing was left to chance"
    assert [first.spatial_sources(agent) for agent in range(4)] == [(), (0,), (0, 1), (0, 1, 2)]
    assert [second.temporal_sources(agent) for agent in range(4)] == [(0, 1, 2, 3)] * 4
    layered = Graph.create_from_topology(Topology.layered, 6, seed=5)
    assert list(layered.draw_round_edges(random.Random(0), 0).spatial) == layered.spatial.list_live()


def test_a_pruned_edge_opens_the_way_for_its_opposite() -> None:
    graph = Graph.create_from_topology(Topology.full_connected, 2, seed=0)
    graph.spatial.live[0, 1] = False
    assert graph.draw_round_edges(random.Random(0), 0).spatial == ((1, 0),)
    graph.spatial.live[1, 0] = False
    assert graph.draw_round_edges(random.Random(0), 0).spatial == ()


def in_some_order(edges: tuple[Edge, ...], agents: int) -> bool:
    """Whether the agents can speak one after the other, each after all that it hears (Kahn's
    algorithm)."""
    waiting, left = list(edges), set(range(agents))
    while left:
        ready = {agent for agent in left if not any(target == agent for _, target in waiting)}
        if not ready:
            return False
        left -= ready
        waiting = [(source, target) for source, target in waiting if source not in ready]
    return True


@st.composite
def any_graph(draw: st.DrawFn) -> Graph:
    """A graph with any mask and any logits, cycles and edges to oneself among them."""
    agents = draw(st.integers(1, 7))
    graph = Graph.create_from_topology(
        draw(st.sampled_from(MODES)),
        agents,
        seed=draw(st.integers(0, 9)),
        train_spatial=draw(st.booleans()),
        train_temporal=draw(st.booleans()),
    )
    noise = np.random.default_rng(draw(st.integers(0, 2**32)))
    for edges in graph.edges_by_kind.values():
        if draw(st.booleans()):
            edges.allowed = noise.random(edges.allowed.shape) < 0.8
        edges.live = edges.allowed & (noise.random(edges.allowed.shape) < 0.9)
        edges.logits = noise.normal(scale=2, size=edges.logits.shape)
    return graph


@settings(max_examples=300)
@given(any_graph(), st.integers(0, 2), st.randoms(use_true_random=False))
def test_every_round_is_free_of_cycles_and_says_how_likely_it_was(
    graph: Graph, number: int, rng: random.Random
) -> None:
    drawn = graph.draw_round_edges(rng, number)
    assert in_some_order(drawn.spatial, graph.num_agents)
    assert all(graph.spatial.live[edge] for edge in drawn.spatial)
    assert all(graph.temporal.live[edge] for edge in drawn.temporal)
    assert number > 0 or not drawn.temporal
    for kind, edges in graph.edges_by_kind.items():
        chosen = [one for one in drawn.choices if one.kind == kind]
        took = drawn.spatial if kind == "spatial" else drawn.temporal
        if not edges.optimized:
            assert chosen == []
            continue
        assert tuple((one.source, one.target) for one in chosen if one.taken) == took
        assert [(one.source, one.target) for one in chosen] == sorted(
            {(one.source, one.target) for one in chosen}
        )
        for one in chosen:
            assert one.probability == pytest.approx(1 / (1 + math.exp(-edges.logits[one.source, one.target])))
        if kind == "temporal" and number > 0:
            assert len(chosen) == edges.num_live, "memories may go in circles: each is a choice"
    likely = [one.probability if one.taken else 1 - one.probability for one in drawn.choices]
    assert drawn.log_prob == pytest.approx(sum(map(math.log, likely)))


@settings(max_examples=100)
@given(any_graph(), st.randoms(use_true_random=False))
def test_an_edge_without_a_choice_is_one_that_would_have_closed_a_cycle(
    graph: Graph, rng: random.Random
) -> None:
    graph.spatial.optimized = True
    drawn = graph.draw_round_edges(rng, 0)
    tried = {(one.source, one.target) for one in drawn.choices}
    for source, target in set(graph.spatial.list_live()) - tried:
        assert not in_some_order((*drawn.spatial, (source, target)), graph.num_agents)


def test_edges_are_taken_as_often_as_their_probability_says() -> None:
    graph = Graph.create_from_topology(Topology.star, 3, seed=0, initial_probability=0.8, train_spatial=True)
    assert graph.spatial.probabilities[0, 1] == pytest.approx(0.8)
    rng = random.Random(0)
    rounds = [graph.draw_round_edges(rng, 0) for _ in range(2000)]
    shares = [sum(edge in one.spatial for one in rounds) / len(rounds) for edge in graph.spatial.list_live()]
    assert shares == pytest.approx([0.8] * 3, abs=0.04)
    # all rounds that there can be: their probabilities sum to 1
    likely = {one.spatial: math.exp(one.log_prob) for one in rounds}
    assert len(likely) == 8
    assert sum(likely.values()) == pytest.approx(1)


def test_probabilities_neither_overflow_nor_lose_what_is_nearly_certain() -> None:
    assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]
    assert compute_edge_log_probability(-1000.0, is_drawn=True) == -1000.0
    assert compute_edge_log_probability(1000.0, is_drawn=True) == 0.0
    assert compute_edge_log_probability(40.0, is_drawn=False) == pytest.approx(-40.0)

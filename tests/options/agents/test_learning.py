"""Gradients against torch, pruning by count, and an edge that matters is found."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.options.agents.graph import Edge, Edges, Graph, Kind, Matrix, Round
from runner.options.agents.graph_training import (
    Adam,
    GraphTrainer,
    PlayedQuestion,
    compute_low_rank_penalty,
    prune_edges_with_lowest_logits,
)
from runner.options.agents.keys import Baseline, Topology
from runner.options.agents.training_methods import RunnerMethod


def team(
    spatial: bool = True, temporal: bool = False, agents: int = 4, mode: Topology = Topology.full_connected
) -> Graph:
    return Graph.create_from_topology(mode, agents, seed=0, train_spatial=spatial, train_temporal=temporal)


def uneven(graph: Graph, seed: int = 0) -> Graph:
    """The same with logits all over the place."""
    noise = np.random.default_rng(seed)
    for edges in graph.edges_by_kind.values():
        edges.logits = noise.normal(size=edges.logits.shape)
    return graph


def played(graph: Graph, questions: int, rng: random.Random, rounds: int = 2) -> list[PlayedQuestion]:
    """Questions that are solved by the toss of a coin."""
    return [
        ([graph.draw_round_edges(rng, number) for number in range(rounds)], rng.random() < 0.5)
        for _ in range(questions)
    ]


def slope(of: Callable[[Matrix], float], at: Matrix, step: float = 1e-6) -> Matrix:
    """The gradient by central differences."""
    result = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[place] = step
        result[place] = (of(at + moved) - of(at - moved)) / (2 * step)
    return result


def test_adam_is_torchs() -> None:
    noise = np.random.default_rng(0)
    logits, adam = noise.normal(size=(4, 4)), Adam((4, 4), 0.1)
    theirs = torch.tensor(logits.copy(), requires_grad=True)
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    for number in range(60):
        gradient = noise.normal(size=(4, 4)) * 10.0 ** (number % 5 - 3)
        gradient[0, 0] = 0.0  # an edge that is never drawn
        gradient[1, 1] *= number % 7 == 0  # and one that seldom is
        theirs.grad = torch.tensor(gradient)
        optimizer.step()
        logits += adam.compute_adam_update(gradient)
        np.testing.assert_allclose(logits, theirs.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("baseline", list(Baseline))
def test_the_loss_and_its_gradient_are_what_torch_makes_of_the_formula(baseline: Baseline) -> None:
    graph = uneven(team(temporal=True))
    graph.spatial.live[0, 2] = False
    plays = played(graph, 6, random.Random(3))
    assert {solved for _, solved in plays} == {True, False}
    loss, gradients = GraphTrainer(
        graph, RunnerMethod(baseline=baseline, nuclear_norm=0.3)
    ).compute_gradients(plays)

    logits = {
        kind: torch.tensor(edges.logits, requires_grad=True) for kind, edges in graph.edges_by_kind.items()
    }
    subtracted = sum(solved for _, solved in plays) / 6 if baseline is Baseline.mean else 0.0
    terms = []
    for rounds, solved in plays:
        log_p = torch.zeros((), dtype=torch.float64)
        for choice in (choice for one in rounds for choice in one.choices):
            p = torch.sigmoid(logits[choice.kind][choice.source, choice.target])
            log_p = log_p + torch.log(p if choice.taken else 1 - p)
        terms.append(-log_p * (solved - subtracted))
    mask = torch.sigmoid(logits["spatial"]) * torch.tensor(graph.spatial.live)
    expected = torch.stack(terms).mean() + 0.3 * torch.linalg.matrix_norm(mask, "nuc")
    expected.backward()
    assert loss == pytest.approx(expected.item())
    for kind in graph.edges_by_kind:
        found = logits[kind].grad
        assert found is not None
        np.testing.assert_allclose(gradients[kind], found.numpy(), atol=1e-12)


@pytest.mark.thorough
@settings(max_examples=40)
@given(st.integers(2, 6), st.integers(0, 2**32))
def test_the_nuclear_norm_has_the_gradient_of_torch_and_of_finite_differences(agents: int, seed: int) -> None:
    edges = uneven(team(agents=agents), seed).spatial
    if agents > 3:
        edges.live[1, 0] = False

    def norm(logits: Matrix) -> float:
        return compute_low_rank_penalty(Edges(edges.allowed, edges.live, logits, True))[0]

    value, gradient = compute_low_rank_penalty(edges)
    logits = torch.tensor(edges.logits, requires_grad=True)
    theirs = torch.linalg.matrix_norm(torch.sigmoid(logits) * torch.tensor(edges.live), "nuc")
    theirs.backward()
    assert logits.grad is not None
    assert value == pytest.approx(theirs.item())
    np.testing.assert_allclose(gradient, logits.grad.numpy(), atol=1e-9)
    np.testing.assert_allclose(gradient, slope(norm, edges.logits), atol=1e-5)
    assert (gradient[~edges.live] == 0).all()


@pytest.mark.parametrize("mode", [Topology.star, Topology.chain, Topology.layered, Topology.debate])
def test_where_a_singular_value_is_zero_the_gradient_still_leads_down(mode: Topology) -> None:
    edges = team(mode=mode).spatial
    value, gradient = compute_low_rank_penalty(edges)
    assert np.isfinite(gradient).all()
    assert (gradient[~edges.live] == 0).all()
    lower, _ = compute_low_rank_penalty(
        Edges(edges.allowed, edges.live, edges.logits - 1e-3 * gradient, True)
    )
    fall = (value - lower) / 1e-3
    assert fall == pytest.approx((gradient**2).sum(), rel=1e-2, abs=1e-12)


def test_the_nuclear_norm_alone_makes_a_graph_of_lower_rank() -> None:
    plain, pressed = uneven(team()), uneven(team())
    for weight, graph in ((0.0, plain), (1.0, pressed)):
        learner, rng = (
            GraphTrainer(graph, RunnerMethod(nuclear_norm=weight, pruning_rate=0.0)),
            random.Random(0),
        )
        for _ in range(40):
            learner.update_edges_from_answers([(rounds, False) for rounds, _ in played(graph, 4, rng)])
    assert compute_low_rank_penalty(pressed.spatial)[0] < 0.5 * compute_low_rank_penalty(plain.spatial)[0]
    assert plain.spatial.logits.tolist() == uneven(team()).spatial.logits.tolist(), (
        "nothing solved, nothing learned"
    )


def test_the_loss_is_the_mean_of_minus_log_p_over_solved_questions() -> None:
    graph = team(agents=2)
    rounds = [graph.draw_round_edges(random.Random(seed), 0) for seed in range(4)]
    plays: list[PlayedQuestion] = [([one], number == 0) for number, one in enumerate(rounds)]
    assert GraphTrainer(graph, RunnerMethod()).compute_gradients(plays)[0] == pytest.approx(
        -rounds[0].log_prob / 4
    )
    others = sum(one.log_prob for one in rounds[1:])
    subtracted = GraphTrainer(graph, RunnerMethod(baseline=Baseline.mean)).compute_gradients(plays)[0]
    assert subtracted == pytest.approx((-rounds[0].log_prob * 0.75 + others * 0.25) / 4)
    learner = GraphTrainer(graph, RunnerMethod(baseline=Baseline.mean))
    step = learner.update_edges_from_answers([(one, True) for one, _ in plays])
    assert (step.iteration, step.solved, step.loss) == (1, 1.0, 0.0)
    assert (graph.spatial.logits == 0).all(), "equal rewards tell a baseline-subtracted loss nothing"


def test_pruning_leaves_9_and_then_7_of_12_edges_and_each_kind_counts_for_itself() -> None:
    graph, rng = team(spatial=True, temporal=True), random.Random(1)
    learner = GraphTrainer(graph, RunnerMethod())
    steps = [learner.update_edges_from_answers(played(graph, 4, rng)) for _ in range(10)]
    assert [step.live["spatial"] for step in steps] == [12] * 4 + [9] * 5 + [7]
    assert [step.live["temporal"] for step in steps] == [16] * 4 + [12] * 5 + [9]
    assert [step.iteration for step in steps if step.pruned] == [5, 10]
    assert {kind: len(edges) for kind, edges in steps[4].pruned.items()} == {"spatial": 3, "temporal": 4}
    for kind, edges in graph.edges_by_kind.items():
        gone = [edge for step in (steps[4], steps[9]) for edge in step.pruned.get(kind, ())]
        assert (
            sorted([*gone, *edges.list_live()])
            == Graph.create_from_topology(graph.mode, 4, seed=0).edges_by_kind[kind].list_live()
        )
        assert edges.allowed.sum() == {"spatial": 12, "temporal": 16}[kind], "what was allowed stays known"


def test_what_goes_are_the_lowest_logits_and_of_equal_ones_the_last() -> None:
    edges = team().spatial
    edges.logits[2, 1] = -0.5
    edges.logits[0, 0] = -9.0  # no edge: nobody hears itself
    assert prune_edges_with_lowest_logits(edges, 0.25) == [(2, 1), (3, 2), (3, 1)]
    assert prune_edges_with_lowest_logits(edges, 0.25) == [(3, 0), (2, 3)]
    assert prune_edges_with_lowest_logits(edges, 0.0) == []


@pytest.mark.parametrize("rate", [0.01, 0.25, 1.0])
def test_pruning_ends_at_no_edges_and_the_team_goes_on_without(rate: float) -> None:
    graph, rng = team(spatial=True, temporal=True, agents=2), random.Random(0)
    learner = GraphTrainer(graph, RunnerMethod(pruning_rate=rate, imp_per_iterations=1, nuclear_norm=0.1))
    for number in range(6):
        step = learner.update_edges_from_answers(played(graph, 4, rng))
        assert step.live == {kind: edges.num_live for kind, edges in graph.edges_by_kind.items()}
        assert step.live["temporal"] == (0 if rate == 1 else max(0, 4 - number - 1))
    assert step.pruned == {"spatial": (), "temporal": ()}
    assert graph.draw_round_edges(rng, 1) == Round((), (), (), 0.0)
    assert math.isfinite(step.loss)


def test_only_what_is_optimized_changes_and_a_pruned_edge_keeps_its_weight() -> None:
    graph, rng = uneven(team(spatial=False, temporal=True)), random.Random(0)
    before = graph.spatial.logits.tolist()
    learner = GraphTrainer(graph, RunnerMethod(imp_per_iterations=2))
    first = learner.update_edges_from_answers(played(graph, 4, rng))
    assert first.pruned == {}
    pruned = learner.update_edges_from_answers(played(graph, 4, rng)).pruned
    assert set(pruned) == {"temporal"}
    weights = [graph.temporal.logits[edge] for edge in pruned["temporal"]]
    for _ in range(3):
        learner.update_edges_from_answers(played(graph, 4, rng))
    assert [graph.temporal.logits[edge] for edge in pruned["temporal"]] == weights
    assert (graph.spatial.logits.tolist(), graph.spatial.num_live) == (before, 12)


def trained(
    edge: Edge, seed: int, kind: Kind = "spatial", *, iterations: int = 10, baseline: Baseline = Baseline.none
) -> Edges:
    """The edges of a kind after training on a stub: 0.9 of the questions are solved with one edge,
    0.3 without it."""
    graph, rng = team(kind == "spatial", kind == "temporal"), random.Random(seed)
    learner = GraphTrainer(graph, RunnerMethod(baseline=baseline, imp_per_iterations=iterations // 2))
    for _ in range(iterations):
        plays: list[PlayedQuestion] = []
        for _ in range(4):
            rounds = [graph.draw_round_edges(rng, number) for number in range(1 if kind == "spatial" else 2)]
            taken = any(edge in (one.spatial if kind == "spatial" else one.temporal) for one in rounds)
            plays.append((rounds, rng.random() < (0.9 if taken else 0.3)))
        learner.update_edges_from_answers(plays)
    return graph.edges_by_kind[kind]


def found(edges: Edges) -> Edge:
    return max(edges.list_live(), key=lambda edge: float(edges.logits[edge]))


@pytest.mark.thorough
@pytest.mark.parametrize("edge", team().spatial.list_live())
def test_training_finds_the_one_edge_that_matters(edge: Edge) -> None:
    runs = [trained(edge, seed, iterations=40, baseline=Baseline.mean) for seed in range(20)]
    assert {edges.num_live for edges in runs} == {7}
    assert sum(found(edges) == edge for edges in runs) >= 19


@pytest.mark.thorough
def test_training_finds_the_one_memory_that_matters() -> None:
    runs = [trained((2, 2), seed, "temporal", iterations=40, baseline=Baseline.mean) for seed in range(20)]
    assert {edges.num_live for edges in runs} == {9}
    assert sum(found(edges) == (2, 2) for edges in runs) >= 19


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("baseline", "kept", "named"), [(Baseline.none, 0.90, 0.45), (Baseline.mean, 0.95, 0.65)]
)
def test_ten_iterations_keep_the_edge_more_often_than_they_name_it(
    baseline: Baseline, kept: float, named: float
) -> None:
    runs = [
        (trained(edge, seed, baseline=baseline), edge)
        for edge in team().spatial.list_live()
        for seed in range(20)
    ]
    survives = sum(bool(edges.live[edge]) for edges, edge in runs) / len(runs)
    is_largest = sum(found(edges) == edge for edges, edge in runs) / len(runs)
    assert kept <= survives < 1  # 7 of 12 edges stay: 0.58 without learning
    assert named <= is_largest < 0.85  # 0.08 without learning


def test_a_seed_learns_the_same_graph_again() -> None:
    one, same, other = trained((1, 2), 4), trained((1, 2), 4), trained((1, 2), 5)
    assert one.logits.tolist() == same.logits.tolist()
    assert one.live.tolist() == same.live.tolist()
    assert one.logits.tolist() != other.logits.tolist()

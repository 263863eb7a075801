"""Each method's loss, gradients, draws and pruning against its formulas, written with torch's
autograd."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.options.agents.graph import Edge, Graph, Kind, select_acyclic_edges
from runner.options.agents.graph_training import GraphTrainer, GraphTrainingMethod, PlayedQuestion
from runner.options.agents.keys import AgentsConfig, Baseline, Topology, TrainingMethod
from runner.options.agents.training_methods import (
    AgentPrune,
    AgentPruneCode,
    RunnerMethod,
    make_training_method,
)

KINDS: tuple[Kind, ...] = ("spatial", "temporal")
DELTA, RATE, ITERATIONS = 0.1, 0.25, 4


def nuclear(matrix: torch.Tensor) -> torch.Tensor:
    """The sum of singular values; where one is 0, with the shortest of all possible gradients."""
    if torch.linalg.matrix_rank(matrix.detach()) == len(matrix):
        return torch.linalg.matrix_norm(matrix, ord="nuc")
    still = matrix.detach()
    squares, vectors = torch.linalg.eigh(still.T @ still)
    roots = torch.where(
        squares > 1e-12 * squares.max().clamp(min=1e-300), squares.clamp(min=1e-300).rsqrt(), 0.0
    )
    return (matrix * (still @ vectors @ torch.diag(roots) @ vectors.T)).sum()


def far(given: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return torch.relu(torch.linalg.matrix_norm(given - matrix, ord="fro") - DELTA)


class Reference:
    """A graph of torch parameters, drawn and trained by the formulas."""

    def __init__(self, graph: Graph, method: TrainingMethod, rounds: int) -> None:
        self.method, self.rounds = method, rounds
        self.allowed = {kind: torch.tensor(graph.edges_by_kind[kind].allowed) for kind in KINDS}
        self.live = {kind: mask.clone() for kind, mask in self.allowed.items()}
        self.optimized = {kind: graph.edges_by_kind[kind].optimized for kind in KINDS}
        self.logits = {
            kind: torch.nn.Parameter(torch.tensor(edges.logits))
            for kind, edges in graph.edges_by_kind.items()
        }
        self.optimizer = torch.optim.Adam([self.logits[kind] for kind in KINDS], lr=0.1)

    def draw(self, rng: random.Random) -> tuple[list[tuple[list[Edge], list[Edge]]], torch.Tensor]:
        """The edges of all rounds, and the log-probability of all choices."""
        log_p, drawn = torch.zeros((), dtype=torch.float64), []
        for number in range(self.rounds):
            found: dict[Kind, list[Edge]] = {"spatial": [], "temporal": []}
            for kind in KINDS if number else KINDS[:1]:
                for source, target in self.live[kind].nonzero().tolist():
                    if kind == "spatial" and reaches(found[kind], target, source):
                        continue
                    if self.optimized[kind]:
                        p = torch.sigmoid(self.logits[kind][source, target])
                        taken = rng.random() < p.item()
                        log_p = log_p + torch.log(p if taken else 1 - p)
                        if not taken:
                            continue
                    found[kind].append((source, target))
            drawn.append((found["spatial"], found["temporal"]))
        return drawn, log_p

    def mask(self, kind: Kind) -> torch.Tensor:
        return torch.sigmoid(self.logits[kind]) * self.live[kind]

    def added(self) -> torch.Tensor:
        """What the method adds to the loss."""
        terms = [torch.zeros((), dtype=torch.float64)]
        for kind in (kind for kind in KINDS if self.optimized[kind]):
            given = self.allowed[kind].double()
            if self.method is TrainingMethod.runner and kind == "spatial":
                terms.append(0.3 * nuclear(self.mask(kind)))
            elif self.method is TrainingMethod.agent_prune:
                terms.append(nuclear(self.mask(kind)) + far(given, self.mask(kind)))
            elif self.method is TrainingMethod.agent_prune_code:
                terms.append(nuclear(self.logits[kind]) + far(given, self.logits[kind]))
        return torch.stack(terms).sum()

    def step(self, log_ps: list[torch.Tensor], solved: list[bool]) -> torch.Tensor:
        """One step of Adam; returns the loss."""
        subtracted = sum(solved) / len(solved) if self.method is TrainingMethod.runner else 0.0
        parts = [-log_p * (won - subtracted) for log_p, won in zip(log_ps, solved, strict=True)]
        loss = torch.stack(parts).mean() + self.added()
        before = {kind: self.logits[kind].detach().clone() for kind in KINDS}
        self.optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()
        self.optimizer.step()
        for kind in KINDS:
            if self.method is not TrainingMethod.agent_prune_code:
                logits = self.logits[kind]
                logits.data = torch.where(self.live[kind], logits.data, before[kind])
        return loss

    def after(self, iteration: int) -> None:
        """Prune as the method does."""
        every = ITERATIONS if self.method is TrainingMethod.agent_prune else 2
        if iteration % every:
            return
        for kind in (kind for kind in KINDS if self.optimized[kind]):
            logits, live = self.logits[kind], self.live[kind]
            edges = sorted((logits[at].item(), -place) for place, at in enumerate(map(tuple, live.nonzero())))
            places = [tuple(place) for place in live.nonzero().tolist()]
            for _, place in edges[: max(1, round(len(edges) * RATE))]:
                live[places[-place]] = False


def reaches(edges: list[Edge], start: int, end: int) -> bool:
    """Whether a path of edges leads from one agent to another."""
    seen, todo = {start}, [start]
    while todo:
        at = todo.pop()
        new = [target for source, target in edges if source == at and target not in seen]
        seen.update(new)
        todo += new
    return end in seen


def built(method: TrainingMethod) -> GraphTrainingMethod:
    choices: dict[TrainingMethod, Callable[[], GraphTrainingMethod]] = {
        TrainingMethod.runner: lambda: RunnerMethod(RATE, 2, Baseline.mean, 0.3),
        TrainingMethod.agent_prune: lambda: AgentPrune(ITERATIONS, RATE, DELTA),
        TrainingMethod.agent_prune_code: lambda: AgentPruneCode(RATE, 2, DELTA),
    }
    return choices[method]()


def uneven(mode: Topology, agents: int, rounds: int, seed: int) -> Graph:
    """A graph whose logits are random."""
    graph = Graph.create_from_topology(mode, agents, seed=seed, train_spatial=True, train_temporal=rounds > 1)
    noise = np.random.default_rng(seed)
    for edges in graph.edges_by_kind.values():
        edges.logits = noise.normal(size=edges.logits.shape)
    return graph


@pytest.mark.thorough
@pytest.mark.parametrize("method", [method for method in TrainingMethod if method is not TrainingMethod.none])
@settings(max_examples=25, deadline=None)
@given(
    mode=st.sampled_from(
        [Topology.full_connected, Topology.random, Topology.chain, Topology.layered, Topology.star]
    ),
    agents=st.integers(2, 6),
    rounds=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_a_whole_training_is_that_of_the_formulas(
    method: TrainingMethod, mode: Topology, agents: int, rounds: int, seed: int
) -> None:
    graph = uneven(mode, agents, rounds, seed)
    reference = Reference(graph, method, rounds)
    learner, coin = GraphTrainer(graph, built(method)), random.Random(seed)
    for iteration in range(1, ITERATIONS + 1):
        plays, log_ps, solved = list[PlayedQuestion](), [], []
        for question in range(4):
            ours, theirs = random.Random(f"{seed} {question}"), random.Random(f"{seed} {question}")
            drawn = [graph.draw_round_edges(ours, number) for number in range(rounds)]
            expected, log_p = reference.draw(theirs)
            assert [(list(one.spatial), list(one.temporal)) for one in drawn] == expected
            assert sum(one.log_prob for one in drawn) == pytest.approx(log_p.item(), abs=1e-6)
            solved.append(coin.random() < 0.5)
            plays.append((drawn, solved[-1]))
            log_ps.append(log_p)
        _, gradients = learner.compute_gradients(plays)
        step = learner.update_edges_from_answers(plays)
        loss = reference.step(log_ps, solved)
        assert step.loss == pytest.approx(loss.item(), abs=1e-6)
        for kind, gradient in gradients.items():
            slope = reference.logits[kind].grad
            expected_gradient = np.zeros_like(gradient) if slope is None else slope.numpy()
            wanted = True if method is TrainingMethod.agent_prune_code else reference.live[kind].numpy()
            np.testing.assert_allclose(
                np.where(wanted, gradient, 0), np.where(wanted, expected_gradient, 0), atol=1e-6
            )
        reference.after(iteration)
        for kind, edges in graph.edges_by_kind.items():
            np.testing.assert_array_equal(edges.live, reference.live[kind].numpy())
            np.testing.assert_allclose(edges.logits, reference.logits[kind].detach().numpy(), atol=1e-6)


def counts(method: GraphTrainingMethod, iterations: int) -> list[tuple[int, int]]:
    """How many edges of both kinds a full team of four has after each iteration."""
    graph = Graph.create_from_topology(
        Topology.full_connected, 4, seed=0, train_spatial=True, train_temporal=True
    )
    learner, rng, found = GraphTrainer(graph, method), random.Random(0), []
    for _ in range(iterations):
        plays = [
            ([graph.draw_round_edges(rng, number) for number in range(2)], rng.random() < 0.5)
            for _ in range(4)
        ]
        step = learner.update_edges_from_answers(plays)
        found.append((step.live["spatial"], step.live["temporal"]))
    return found


def test_how_many_edges_each_method_leaves() -> None:
    assert counts(RunnerMethod(), 10) == [(12, 16)] * 4 + [(9, 12)] * 5 + [(7, 9)]
    assert counts(AgentPruneCode(), 10) == [(12, 16)] * 4 + [(9, 12)] * 5 + [(7, 9)]
    assert counts(AgentPrune(), 10) == [(12, 16)] * 9 + [(9, 12)]
    assert counts(GraphTrainingMethod(), 10) == [(12, 16)] * 10


@pytest.mark.thorough
def test_without_chance_the_learned_preference_wins() -> None:
    """An edge against the order of the scan, learned as the one that matters, is taken; by the
    order it is not."""
    settled = ordered = 0
    for seed in range(20):
        graph = Graph.create_from_topology(Topology.full_connected, 4, seed=0, train_spatial=True)
        learner, rng = (
            GraphTrainer(graph, RunnerMethod(pruning_rate=0.0, baseline=Baseline.mean)),
            random.Random(seed),
        )
        for _ in range(40):
            rounds = [graph.draw_round_edges(rng, 0) for _ in range(4)]
            learner.update_edges_from_answers(
                [([one], rng.random() < (0.9 if (3, 0) in one.spatial else 0.3)) for one in rounds]
            )
        settled += (3, 0) in graph.get_most_likely_round_edges(0).spatial
        ordered += (3, 0) in select_acyclic_edges(4, graph.spatial.list_live())
    assert settled >= 19
    assert ordered == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**32), st.booleans())
def test_the_settled_round_is_the_greedy_choice_of_the_likeliest_edges(
    agents: int, seed: int, pruned: bool
) -> None:
    graph = uneven(Topology.full_connected, agents, 2, seed)
    if pruned:
        graph.spatial.live[0, 1] = False
    weights = torch.sigmoid(torch.tensor(graph.spatial.logits))
    tried = sorted(graph.spatial.list_live(), key=lambda edge: -weights[edge].item())
    taken: list[Edge] = []
    for edge in tried:
        if (pruned or weights[edge] >= 0.5) and not reaches(taken, edge[1], edge[0]):
            taken.append(edge)
    found = graph.get_most_likely_round_edges(1)
    assert list(found.spatial) == sorted(taken)
    wanted = [
        edge
        for edge in graph.temporal.list_live()
        if torch.sigmoid(torch.tensor(graph.temporal.logits[edge])) >= 0.5
    ]
    assert list(found.temporal) == wanted
    assert (found.choices, graph.get_most_likely_round_edges(0).temporal) == ((), ())


def test_the_task_chooses_its_method() -> None:
    keys: dict[str, Any] = {"optimized_spatial": True, "num_iterations": 7, "pruning_rate": 0.5}
    prune = make_training_method(AgentsConfig(method=TrainingMethod.agent_prune, delta=0.3, **keys))
    assert isinstance(prune, AgentPrune)
    assert (prune.iterations, prune.pruning_rate, prune.delta) == (7, 0.5, 0.3)
    code = make_training_method(
        AgentsConfig(method=TrainingMethod.agent_prune_code, imp_per_iterations=3, **keys)
    )
    assert isinstance(code, AgentPruneCode)
    assert (code.imp_per_iterations, code.pruning_rate, code.delta) == (3, 0.5, 0.1)
    ours = make_training_method(AgentsConfig(baseline=Baseline.mean, nuclear_norm=0.2, **keys))
    assert isinstance(ours, RunnerMethod)
    assert (ours.baseline, ours.nuclear_norm) == (Baseline.mean, 0.2)
    assert type(make_training_method(AgentsConfig(method=TrainingMethod.none))) is GraphTrainingMethod

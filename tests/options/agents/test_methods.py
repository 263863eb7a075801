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

from runner.options.agents.graph import Edge, Graph, Kind, acyclic
from runner.options.agents.keys import AgentsConfig, Baseline, Method, Mode
from runner.options.agents.learning import Learner, LearningMethod, Play
from runner.options.agents.methods import (
    AgentDropout,
    AgentPrune,
    AgentPruneCode,
    Ours,
    method_of,
    weakest_agents,
)

KINDS: tuple[Kind, ...] = ("spatial", "temporal")
DELTA, RATE, ITERATIONS = 0.1, 0.25, 4
Tensors = dict[Kind, list[torch.Tensor]]


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
    """A graph of torch parameters, drawn and trained by the formulas; `each` round may have its own
    matrices."""

    def __init__(self, graph: Graph, method: Method, rounds: int) -> None:
        self.method, self.rounds, self.each = method, rounds, method is Method.agent_dropout
        self.allowed = {
            kind: [torch.tensor(one.allowed) for one in graph.kinds[kind].squares] for kind in KINDS
        }
        self.live = {kind: [mask.clone() for mask in masks] for kind, masks in self.allowed.items()}
        self.first = {kind: [torch.tensor(one.logits) for one in graph.kinds[kind].squares] for kind in KINDS}
        self.optimized = {kind: graph.kinds[kind].optimized for kind in KINDS}
        self.was_optimized = dict(self.optimized)
        self.optimized["temporal"] &= method is not Method.agent_dropout  # not in its first stage
        self.stage = 1
        self.start()

    def start(self) -> None:
        self.logits: Tensors = {
            kind: [torch.nn.Parameter(one.clone()) for one in self.first[kind]] for kind in KINDS
        }
        self.optimizer = torch.optim.Adam([one for kind in KINDS for one in self.logits[kind]], lr=0.1)

    def draw(self, rng: random.Random) -> tuple[list[tuple[list[Edge], list[Edge]]], torch.Tensor]:
        """The edges of all rounds, and the log-probability of all choices."""
        log_p, drawn = torch.zeros((), dtype=torch.float64), []
        for number in range(self.rounds):
            found: dict[Kind, list[Edge]] = {"spatial": [], "temporal": []}
            for kind in KINDS if number else KINDS[:1]:
                at = number - (kind == "temporal") if self.each else 0
                for source, target in self.live[kind][at].nonzero().tolist():
                    if kind == "spatial" and reaches(found[kind], target, source):
                        continue
                    if self.optimized[kind]:
                        p = torch.sigmoid(self.logits[kind][at][source, target])
                        taken = rng.random() < p.item()
                        log_p = log_p + torch.log(p if taken else 1 - p)
                        if not taken:
                            continue
                    found[kind].append((source, target))
            drawn.append((found["spatial"], found["temporal"]))
        return drawn, log_p

    def masks(self, kind: Kind) -> list[torch.Tensor]:
        pairs = zip(self.logits[kind], self.live[kind], strict=True)
        return [torch.sigmoid(logits) * live for logits, live in pairs]

    def added(self) -> torch.Tensor:
        """What the method adds to the loss."""
        terms = [torch.zeros((), dtype=torch.float64)]
        for kind in (kind for kind in KINDS if self.optimized[kind]):
            given = [one.double() for one in self.allowed[kind]]
            if self.method is Method.runner and kind == "spatial":
                terms.append(0.3 * nuclear(self.masks(kind)[0]))
            elif self.method is Method.agent_prune:
                terms.append(nuclear(self.masks(kind)[0]) + far(given[0], self.masks(kind)[0]))
            elif self.method is Method.agent_prune_code:
                terms.append(nuclear(self.logits[kind][0]) + far(given[0], self.logits[kind][0]))
            elif self.method is Method.agent_dropout and self.stage == 2:
                terms += [nuclear(mask) for mask in self.masks(kind)]
        return torch.stack(terms).sum()

    def step(self, log_ps: list[torch.Tensor], solved: list[bool]) -> torch.Tensor:
        """One step of Adam; returns the loss."""
        subtracted = sum(solved) / len(solved) if self.method is Method.runner else 0.0
        parts = [-log_p * (won - subtracted) for log_p, won in zip(log_ps, solved, strict=True)]
        loss = torch.stack(parts).mean() + self.added()
        before = {kind: [one.detach().clone() for one in self.logits[kind]] for kind in KINDS}
        self.optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()
        self.optimizer.step()
        for kind in KINDS:
            for logits, live, old in zip(self.logits[kind], self.live[kind], before[kind], strict=True):
                if self.method is not Method.agent_prune_code:
                    logits.data = torch.where(live, logits.data, old)
        return loss

    def after(self, iteration: int) -> None:
        """Prune as the method does."""
        is_last_of_stage = iteration % ITERATIONS == 0
        if self.method is Method.agent_dropout and iteration == ITERATIONS:
            self.drop_agents()
            self.optimized, self.stage = dict(self.was_optimized), 2
            self.start()
        elif is_last_of_stage or (
            self.method in (Method.runner, Method.agent_prune_code) and iteration % 2 == 0
        ):
            for kind in (kind for kind in KINDS if self.optimized[kind]):
                for logits, live in zip(self.logits[kind], self.live[kind], strict=True):
                    edges = sorted(
                        (logits[at].item(), -place) for place, at in enumerate(map(tuple, live.nonzero()))
                    )
                    places = [tuple(place) for place in live.nonzero().tolist()]
                    for _, place in edges[: max(1, round(len(edges) * RATE))]:
                        live[places[-place]] = False

    def drop_agents(self) -> None:
        for number, mask in enumerate(self.masks("spatial")):
            degrees = [(mask[:, one].sum() + mask[one].sum()).item() for one in range(len(mask))]
            order = sorted(range(len(mask)), key=lambda one: (degrees[one], -one))
            for one in order[: min(len(mask) - 1, max(1, round(0.2 * len(mask))))]:
                self.live["spatial"][number][one] = self.live["spatial"][number][:, one] = False
                if number > 0:
                    self.live["temporal"][number - 1][:, one] = False
                if number < self.rounds - 1:
                    self.live["temporal"][number][one] = False


def reaches(edges: list[Edge], start: int, end: int) -> bool:
    """Whether a path of edges leads from one agent to another."""
    seen, todo = {start}, [start]
    while todo:
        at = todo.pop()
        new = [target for source, target in edges if source == at and target not in seen]
        seen.update(new)
        todo += new
    return end in seen


def built(method: Method) -> LearningMethod:
    choices: dict[Method, Callable[[], LearningMethod]] = {
        Method.runner: lambda: Ours(RATE, 2, Baseline.mean, 0.3),
        Method.agent_prune: lambda: AgentPrune(ITERATIONS, RATE, DELTA),
        Method.agent_prune_code: lambda: AgentPruneCode(RATE, 2, DELTA),
        Method.agent_dropout: lambda: AgentDropout(ITERATIONS, 0.2, RATE),
    }
    return choices[method]()


def uneven(method: Method, mode: Mode, agents: int, rounds: int, seed: int) -> Graph:
    """A graph whose logits are random."""
    graph = Graph.of(
        mode, agents, seed=seed, optimized_spatial=True, optimized_temporal=rounds > 1,
        rounds=rounds if method is Method.agent_dropout else None,
    )  # fmt: skip
    noise = np.random.default_rng(seed)
    for edges in graph.kinds.values():
        edges.logits = noise.normal(size=edges.logits.shape)
    return graph


@pytest.mark.parametrize("method", [method for method in Method if method is not Method.none])
@settings(max_examples=25, deadline=None)
@given(
    mode=st.sampled_from([Mode.full_connected, Mode.random, Mode.chain, Mode.layered, Mode.star]),
    agents=st.integers(2, 6),
    rounds=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_a_whole_training_is_that_of_the_formulas(
    method: Method, mode: Mode, agents: int, rounds: int, seed: int
) -> None:
    graph = uneven(method, mode, agents, rounds, seed)
    reference = Reference(graph, method, rounds)
    learner, coin = Learner(graph, built(method)), random.Random(seed)
    for iteration in range(1, ITERATIONS * (1 + (method is Method.agent_dropout)) + 1):
        plays, log_ps, solved = list[Play](), [], []
        for question in range(4):
            ours, theirs = random.Random(f"{seed} {question}"), random.Random(f"{seed} {question}")
            drawn = [graph.draw(ours, number) for number in range(rounds)]
            expected, log_p = reference.draw(theirs)
            assert [(list(one.spatial), list(one.temporal)) for one in drawn] == expected
            assert sum(one.log_prob for one in drawn) == pytest.approx(log_p.item(), abs=1e-6)
            solved.append(coin.random() < 0.5)
            plays.append((drawn, solved[-1]))
            log_ps.append(log_p)
        _, gradients = learner.gradients(plays)
        step = learner.step(plays)
        loss = reference.step(log_ps, solved)
        assert step.loss == pytest.approx(loss.item(), abs=1e-6)
        for kind, gradient in gradients.items():
            parts = [
                one.grad if one.grad is not None else torch.zeros_like(one) for one in reference.logits[kind]
            ]
            theirs_here = np.stack(parts).reshape(gradient.shape) if parts else gradient
            wanted = (
                True if method is Method.agent_prune_code else masks_before(reference, kind, gradient.shape)
            )
            np.testing.assert_allclose(
                np.where(wanted, gradient, 0), np.where(wanted, theirs_here, 0), atol=1e-6
            )
        reference.after(iteration)
        for kind, edges in graph.kinds.items():
            for ours_now, logits, live in zip(
                edges.squares, reference.logits[kind], reference.live[kind], strict=True
            ):
                np.testing.assert_array_equal(ours_now.live, live.numpy())
                np.testing.assert_allclose(ours_now.logits, logits.detach().numpy(), atol=1e-6)


def masks_before(
    reference: Reference, kind: Kind, shape: tuple[int, ...]
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """The live edges, in the shape of the arrays of their kind."""
    masks = reference.live[kind]
    return (
        np.stack([mask.numpy() for mask in masks]).reshape(shape)
        if masks
        else np.zeros(shape, dtype=np.bool_)
    )


def counts(method: LearningMethod, iterations: int, rounds: int | None = None) -> list[tuple[int, int]]:
    """How many edges of both kinds a full team of four has after each iteration."""
    graph = Graph.of(
        Mode.full_connected, 4, seed=0, optimized_spatial=True, optimized_temporal=True, rounds=rounds
    )
    learner, rng, found = Learner(graph, method), random.Random(0), []
    for _ in range(iterations):
        plays = [
            ([graph.draw(rng, number) for number in range(rounds or 2)], rng.random() < 0.5) for _ in range(4)
        ]
        step = learner.step(plays)
        found.append((step.live["spatial"], step.live["temporal"]))
    return found


def test_how_many_edges_each_method_leaves() -> None:
    assert counts(Ours(), 10) == [(12, 16)] * 4 + [(9, 12)] * 5 + [(7, 9)]
    assert counts(AgentPruneCode(), 10) == [(12, 16)] * 4 + [(9, 12)] * 5 + [(7, 9)]
    assert counts(AgentPrune(), 10) == [(12, 16)] * 9 + [(9, 12)]
    # three rounds: 36 spatial edges, 32 temporal ones; without an agent a round has 6 of 12
    dropout = counts(AgentDropout(), 20, rounds=3)
    assert dropout[:9] == [(36, 32)] * 9
    assert dropout[9:19] == [(18, 18)] * 10, (
        "3 of 4 agents speak in each round: 6 edges, and 9 from round to round"
    )
    assert dropout[19] == (18 - 3 * 2, 18 - 2 * 2)
    assert counts(AgentDropout(node_pruning_rate=0.0), 10, rounds=3)[9] == (27, 24), "a single stage"
    assert counts(LearningMethod(), 10) == [(12, 16)] * 10


@pytest.mark.parametrize(
    ("agents", "rate", "gone"), [(4, 0.2, 1), (5, 0.2, 1), (6, 0.3, 2), (3, 0.9, 2), (4, 0.0, 0)]
)
def test_how_many_agents_leave_each_round(agents: int, rate: float, gone: int) -> None:
    graph = Graph.of(Mode.full_connected, agents, seed=0, optimized_spatial=True, rounds=2)
    for number in range(agents):
        graph.spatial.logits[1, number, :] = number
    found = weakest_agents(graph, rate)
    assert len(found) == 2 * gone
    assert [agent for round, agent in found if round == 1] == list(range(gone)), (
        "those with the smallest degree"
    )
    assert [agent for round, agent in found if round == 0] == list(range(agents))[::-1][:gone], (
        "of equal ones the last"
    )


@pytest.mark.parametrize("harmful", [0, 3])
def test_an_agent_whose_words_harm_is_dropped(harmful: int) -> None:
    """A simulated truth, and as a control the same with another agent: a coin would drop each in a
    quarter."""
    dropped = [0, 0, 0, 0]
    for seed in range(40):
        graph = Graph.of(Mode.full_connected, 4, seed=0, optimized_spatial=True, rounds=1)
        learner, rng = Learner(graph, AgentDropout(iterations=40)), random.Random(seed)
        for _ in range(40):
            rounds = [graph.draw(rng, 0) for _ in range(4)]
            is_harmed = [any(source == harmful for source, _ in one.spatial) for one in rounds]
            chances = [0.1 if harmed else 0.9 for harmed in is_harmed]
            learner.step(
                [([one], rng.random() < chance) for one, chance in zip(rounds, chances, strict=True)]
            )
        ((_, agent),) = graph.silent
        dropped[agent] += 1
    assert dropped[harmful] >= 25, dropped


def test_without_chance_the_learned_preference_wins() -> None:
    """An edge against the order of the scan, learned as the one that matters, is taken; by the
    order it is not."""
    settled = ordered = 0
    for seed in range(20):
        graph = Graph.of(Mode.full_connected, 4, seed=0, optimized_spatial=True)
        learner, rng = (Learner(graph, Ours(pruning_rate=0.0, baseline=Baseline.mean)), random.Random(seed))
        for _ in range(40):
            rounds = [graph.draw(rng, 0) for _ in range(4)]
            learner.step([([one], rng.random() < (0.9 if (3, 0) in one.spatial else 0.3)) for one in rounds])
        settled += (3, 0) in graph.settled(0).spatial
        ordered += (3, 0) in acyclic(4, graph.spatial.scan())
    assert settled >= 19
    assert ordered == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**32), st.booleans())
def test_the_settled_round_is_the_greedy_choice_of_the_likeliest_edges(
    agents: int, seed: int, pruned: bool
) -> None:
    graph = uneven(Method.runner, Mode.full_connected, agents, 2, seed)
    if pruned:
        graph.spatial.live[0, 1] = False
    weights = torch.sigmoid(torch.tensor(graph.spatial.logits))
    tried = sorted(graph.spatial.scan(), key=lambda edge: -weights[edge].item())
    taken: list[Edge] = []
    for edge in tried:
        if (pruned or weights[edge] >= 0.5) and not reaches(taken, edge[1], edge[0]):
            taken.append(edge)
    found = graph.settled(1)
    assert list(found.spatial) == sorted(taken)
    wanted = [
        edge
        for edge in graph.temporal.scan()
        if torch.sigmoid(torch.tensor(graph.temporal.logits[edge])) >= 0.5
    ]
    assert list(found.temporal) == wanted
    assert (found.choices, graph.settled(0).temporal) == ((), ())


def test_a_silent_agent_has_no_edges_in_its_round() -> None:
    graph = Graph.of(Mode.full_connected, 3, seed=0, rounds=3)
    graph.silence([(1, 2)])
    rounds = [graph.settled(number) for number in range(3)]
    assert [one.silent for one in rounds] == [(), (2,), ()]
    assert {agent for edge in rounds[1].spatial for agent in edge} == {0, 1}
    assert {target for _, target in rounds[1].temporal} == {0, 1}
    assert {source for source, _ in rounds[1].temporal} == {0, 1, 2}, "what it said before is heard"
    assert {source for source, _ in rounds[2].temporal} == {0, 1}
    assert {target for _, target in rounds[2].temporal} == {0, 1, 2}
    assert [graph.draw(random.Random(0), number) for number in range(3)] == rounds, (
        "nothing is random in a fixed graph"
    )


def test_the_task_chooses_its_method() -> None:
    keys: dict[str, Any] = {"optimized_spatial": True, "num_iterations": 7, "pruning_rate": 0.5}
    prune = method_of(AgentsConfig(method=Method.agent_prune, delta=0.3, **keys))
    assert isinstance(prune, AgentPrune)
    assert (prune.iterations, prune.pruning_rate, prune.delta) == (7, 0.5, 0.3)
    dropout = method_of(AgentsConfig(method=Method.agent_dropout, node_pruning_rate=0.4, **keys))
    assert isinstance(dropout, AgentDropout)
    assert (dropout.iterations, dropout.node_pruning_rate, dropout.pruning_rate) == (7, 0.4, 0.5)
    code = method_of(AgentsConfig(method=Method.agent_prune_code, imp_per_iterations=3, **keys))
    assert isinstance(code, AgentPruneCode)
    assert (code.imp_per_iterations, code.pruning_rate, code.delta) == (3, 0.5, 0.1)
    ours = method_of(AgentsConfig(baseline=Baseline.mean, nuclear_norm=0.2, **keys))
    assert isinstance(ours, Ours)
    assert (ours.baseline, ours.nuclear_norm) == (Baseline.mean, 0.2)
    assert type(method_of(AgentsConfig(method=Method.none))) is LearningMethod

"""Communication graph of a team of agents. The edges of each discussion round are drawn from the graph.

A matrix has one row per speaking agent and one column per listening agent. Spatial edges
lead to an agent of the same round, so a round's spatial edges must be acyclic: one agent
has to speak first. Temporal edges lead from the previous round to this one, between any two
agents, and from an agent to itself.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from runner.options.agents.keys import MAX_AGENTS, Topology

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]
Kind = Literal["spatial", "temporal"]
Edge = tuple[int, int]  # who speaks, who listens


@dataclass(frozen=True)
class EdgeDecision:
    """Whether a graph edge was drawn in one random draw, with the edge's probability."""

    kind: Kind
    source: int
    target: int
    taken: bool
    probability: float

    @property
    def edge(self) -> Edge:
        """Row and column of the edge in the matrix of all edges."""
        return self.source, self.target


@dataclass(frozen=True)
class Round:
    """The graph edges of one discussion round, with the log-probability that exactly these edges are
    drawn.
    """

    spatial: tuple[Edge, ...]
    temporal: tuple[Edge, ...]
    choices: tuple[EdgeDecision, ...]
    log_prob: float

    def spatial_sources(self, agent: int) -> tuple[int, ...]:
        """Return the agents whose replies from the same round an agent reads, in ascending order."""
        return tuple(sorted(source for source, target in self.spatial if target == agent))

    def temporal_sources(self, agent: int) -> tuple[int, ...]:
        """Return the agents whose replies from the previous round an agent reads, in ascending order."""
        return tuple(sorted(source for source, target in self.temporal if target == agent))


@dataclass
class Edges:
    """All graph edges of one kind (spatial or temporal), each with a trainable logit."""

    allowed: Mask
    live: Mask
    logits: Matrix
    optimized: bool  # each live edge is taken with probability sigmoid(logit); otherwise always

    @property
    def num_live(self) -> int:
        return int(self.live.sum())

    @property
    def probabilities(self) -> Matrix:
        """Probability of each edge. Pruning does not change the probabilities."""
        return sigmoid(self.logits)

    def list_live(self) -> list[Edge]:
        """Return the edges that are not pruned, in the order in which rounds draw them: by row and column."""
        return [(int(source), int(target)) for source, target in np.argwhere(self.live)]


@dataclass
class Graph:
    """Communication graph of a team. Training changes the edge logits and prunes edges in place."""

    mode: Topology
    spatial: Edges
    temporal: Edges

    @classmethod
    def create_from_topology(
        cls,
        topology: Topology,
        num_agents: int,
        *,
        seed: int,
        initial_probability: float = 0.5,
        train_spatial: bool = False,
        train_temporal: bool = False,
    ) -> Graph:
        """Return the untrained graph for a topology. With direct_answer, the team has only one agent."""
        assert 0 < initial_probability < 1
        size = 1 if topology is Topology.direct_answer else num_agents
        assert 1 <= size <= MAX_AGENTS
        spatial, temporal = make_topology_masks(topology, size, seed)
        logit = math.log(initial_probability / (1 - initial_probability))
        return cls(
            topology,
            _make_edge_set(spatial, logit, train_spatial),
            _make_edge_set(temporal, logit, train_temporal),
        )

    @property
    def num_agents(self) -> int:
        return int(self.spatial.allowed.shape[0])

    @property
    def edges_by_kind(self) -> dict[Kind, Edges]:
        return {"spatial": self.spatial, "temporal": self.temporal}

    def draw_round_edges(self, rng: random.Random, round_index: int) -> Round:
        """Draw the edges of a round at random. `round_index` starts at 0, and round 0 has no temporal
        edges.
        """
        choices: list[EdgeDecision] = []

        def sample_edge_decision(edge_kind: Kind, edge: Edge) -> bool:
            edges = self.edges_by_kind[edge_kind]
            if not edges.optimized:
                return True
            probability = float(sigmoid(edges.logits[edge]))
            chosen = rng.random() < probability
            choices.append(EdgeDecision(edge_kind, *edge, chosen, probability))
            return chosen

        spatial = select_acyclic_edges(
            self.num_agents, self.spatial.list_live(), lambda edge: sample_edge_decision("spatial", edge)
        )
        temporal = self.temporal.list_live() if round_index > 0 else []
        temporal = [edge for edge in temporal if sample_edge_decision("temporal", edge)]
        log_prob = math.fsum(
            compute_edge_log_probability(
                float(self.edges_by_kind[choice.kind].logits[choice.edge]), choice.taken
            )
            for choice in choices
        )
        return Round(tuple(spatial), tuple(temporal), tuple(choices), log_prob)

    def get_most_likely_round_edges(self, round_index: int) -> Round:
        """Return the most probable edges of a round, without random draws. `round_index` starts
        at 0.

        It has the edges that pruning has left. Without pruning it has the edges with probability ≥
        ½. Where edges would form a cycle, the likelier one is used.
        """
        spatial = select_acyclic_edges(self.num_agents, self._sort_likely_edges_by_logit("spatial"))
        temporal = self._sort_likely_edges_by_logit("temporal") if round_index > 0 else []
        return Round(tuple(sorted(spatial)), tuple(sorted(temporal)), (), 0.0)

    def is_pruned(self, edge_kind: Kind) -> bool:
        edges = self.edges_by_kind[edge_kind]
        return bool((edges.allowed & ~edges.live).any())

    def _sort_likely_edges_by_logit(self, kind: Kind) -> list[Edge]:
        edges = self.edges_by_kind[kind]
        if not edges.optimized:
            return edges.list_live()
        takes_all = self.is_pruned(kind)
        wanted = [edge for edge in edges.list_live() if takes_all or edges.logits[edge] >= 0]
        return sorted(wanted, key=lambda edge: -float(edges.logits[edge]))


def select_acyclic_edges(
    num_agents: int, edges: Iterable[Edge], is_selected: Callable[[Edge], bool] = lambda _: True
) -> list[Edge]:
    """Return the selected edges in order, without the edges that would close a cycle."""
    # bit j of agent i: i may have heard of j, directly or not
    heard = [1 << agent for agent in range(num_agents)]
    taken = []
    for source, target in edges:
        if heard[source] >> target & 1 or not is_selected((source, target)):
            continue
        taken.append((source, target))
        for agent, before in enumerate(heard):
            if before >> target & 1:
                heard[agent] |= heard[source]
    return taken


def make_topology_masks(topology: Topology, num_agents: int, seed: int) -> tuple[Mask, Mask]:
    rng = random.Random(f"{topology} {num_agents} {seed}")
    everyone = np.ones((num_agents, num_agents), dtype=np.bool_)
    nobody, others = ~everyone, ~np.eye(num_agents, dtype=np.bool_)
    match topology:
        case Topology.direct_answer:
            return nobody, nobody.copy()
        case Topology.full_connected:
            return others, everyone
        case Topology.random:
            spatial, temporal = (_random_mask(rng, num_agents) for _ in range(2))
            return spatial & others, temporal
        case Topology.chain:
            last_to_first = nobody.copy()
            last_to_first[-1, 0] = True
            return np.eye(num_agents, k=1, dtype=np.bool_), last_to_first
        case Topology.debate:
            return nobody, everyone
        case Topology.layered:
            first = np.arange(num_agents) < (num_agents + 1) // 2  # the larger half if the number is odd
            order = list(range(num_agents))
            rng.shuffle(order)
            speaks = first[order]
            return np.outer(speaks, ~speaks), everyone
        case Topology.star:
            return np.triu(everyone, k=1), everyone


def sigmoid(logits: Matrix) -> Matrix:
    """Return the sigmoid of logits, without numeric overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))


def compute_edge_log_probability(logit: float, is_drawn: bool) -> float:
    """Return the log-probability that an edge was drawn, or not drawn. The result is finite even for
    probability 0.
    """
    signed = float(logit if is_drawn else -logit)
    return min(signed, 0.0) - math.log1p(math.exp(-abs(signed)))


def _make_edge_set(allowed: Mask, logit: float, is_trained: bool) -> Edges:
    return Edges(allowed, allowed.copy(), np.full(allowed.shape, logit), is_trained)


def _random_mask(rng: random.Random, num_agents: int) -> Mask:
    return np.array(
        [[rng.random() < 0.5 for _ in range(num_agents)] for _ in range(num_agents)], dtype=np.bool_
    )

"""Who hears whom: the topology as masks, and one round's edges drawn from it.

A matrix has one row for each agent that speaks and one column for each that listens. Spatial edges
lead to an agent of the same round, so those that a round takes must be free of cycles: somebody has
to speak first. Temporal edges lead from the previous round to this one, between any two agents,
also from an agent to itself.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from runner.options.agents.keys import MAX_AGENTS, Mode

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]
Kind = Literal["spatial", "temporal"]
Edge = tuple[int, int]  # who speaks, who listens


@dataclass(frozen=True)
class EdgeDecision:
    """An edge that was taken or not by chance; `probability` is that of taking it."""

    kind: Kind
    source: int
    target: int
    taken: bool
    probability: float

    @property
    def index(self) -> Edge:
        """Where the edge is in the matrices of its kind."""
        return self.source, self.target


@dataclass(frozen=True)
class Round:
    """The edges that one round took, with the log-probability of all its choices."""

    spatial: tuple[Edge, ...]
    temporal: tuple[Edge, ...]
    choices: tuple[EdgeDecision, ...]
    log_prob: float

    def hears(self, agent: int) -> tuple[int, ...]:
        """Return the agents that an agent hears in this round, in ascending order."""
        return tuple(sorted(source for source, target in self.spatial if target == agent))

    def remembers(self, agent: int) -> tuple[int, ...]:
        """Return the agents of the previous round that an agent hears, in ascending order."""
        return tuple(sorted(source for source, target in self.temporal if target == agent))


@dataclass
class Edges:
    """All edges of one kind: which the topology allows, which pruning has left, and the logit of
    each."""

    allowed: Mask
    live: Mask
    logits: Matrix
    optimized: bool  # each live edge is taken with probability sigmoid(logit); otherwise always

    @property
    def count(self) -> int:
        """How many edges are live."""
        return int(self.live.sum())

    @property
    def weights(self) -> Matrix:
        """Return the probability of each edge, as if it were live."""
        return sigmoid(self.logits)

    def scan(self) -> list[Edge]:
        """Return the live edges in the order in which a round tries them: row by
        row."""
        return [(int(source), int(target)) for source, target in np.argwhere(self.live)]


@dataclass
class Graph:
    """A team's graph; training changes its logits and prunes its edges in place."""

    mode: Mode
    spatial: Edges
    temporal: Edges

    @classmethod
    def of(
        cls,
        mode: Mode,
        agents: int,
        *,
        seed: int,
        initial_probability: float = 0.5,
        optimized_spatial: bool = False,
        optimized_temporal: bool = False,
    ) -> Graph:
        """Return the untrained graph of a topology; direct_answer has one agent, whatever `agents`
        says."""
        assert 0 < initial_probability < 1
        size = 1 if mode is Mode.direct_answer else agents
        assert 1 <= size <= MAX_AGENTS
        spatial, temporal = masks(mode, size, seed)
        logit = math.log(initial_probability / (1 - initial_probability))
        return cls(
            mode, _edges(spatial, logit, optimized_spatial), _edges(temporal, logit, optimized_temporal)
        )

    @property
    def agents(self) -> int:
        """How many agents the team has."""
        return int(self.spatial.allowed.shape[0])

    @property
    def kinds(self) -> dict[Kind, Edges]:
        """The two kinds of edges by name."""
        return {"spatial": self.spatial, "temporal": self.temporal}

    def draw(self, rng: random.Random, round: int) -> Round:
        """Draw the edges of a round, counted from 0; the first one has no temporal edges."""
        choices: list[EdgeDecision] = []

        def is_taken(kind: Kind, edge: Edge) -> bool:
            edges = self.kinds[kind]
            if not edges.optimized:
                return True
            probability = float(sigmoid(edges.logits[edge]))
            chosen = rng.random() < probability
            choices.append(EdgeDecision(kind, *edge, chosen, probability))
            return chosen

        spatial = acyclic(self.agents, self.spatial.scan(), lambda edge: is_taken("spatial", edge))
        temporal = self.temporal.scan() if round > 0 else []
        temporal = [edge for edge in temporal if is_taken("temporal", edge)]
        log_prob = math.fsum(
            log_probability(float(self.kinds[choice.kind].logits[choice.index]), choice.taken)
            for choice in choices
        )
        return Round(tuple(spatial), tuple(temporal), tuple(choices), log_prob)

    def settled(self, round: int) -> Round:
        """Return a round of the graph as it was learned, without chance; counted from 0.

        It takes the edges that pruning has left. If nothing was pruned, it takes those whose
        probability is ½ or more. Where edges would form a cycle, the one with the higher
        probability is taken.
        """
        spatial = acyclic(self.agents, self._preferred("spatial"))
        temporal = self._preferred("temporal") if round > 0 else []
        return Round(tuple(sorted(spatial)), tuple(sorted(temporal)), (), 0.0)

    def is_pruned(self, kind: Kind) -> bool:
        """Whether pruning has removed edges of a kind."""
        edges = self.kinds[kind]
        return bool((edges.allowed & ~edges.live).any())

    def _preferred(self, kind: Kind) -> list[Edge]:
        """Return the edges that a round without chance tries, the likeliest first."""
        edges = self.kinds[kind]
        if not edges.optimized:
            return edges.scan()
        takes_all = self.is_pruned(kind)
        wanted = [edge for edge in edges.scan() if takes_all or edges.logits[edge] >= 0]
        return sorted(wanted, key=lambda edge: -float(edges.logits[edge]))


def acyclic(
    agents: int, edges: Iterable[Edge], is_wanted: Callable[[Edge], bool] = lambda _: True
) -> list[Edge]:
    """Return the wanted edges, in their order; one that would close a cycle is skipped, wanted or
    not."""
    # bit j of agent i: i may have heard of j, directly or not
    heard = [1 << agent for agent in range(agents)]
    taken = []
    for source, target in edges:
        if heard[source] >> target & 1 or not is_wanted((source, target)):
            continue
        taken.append((source, target))
        for agent, before in enumerate(heard):
            if before >> target & 1:
                heard[agent] |= heard[source]
    return taken


def masks(mode: Mode, agents: int, seed: int) -> tuple[Mask, Mask]:
    """Return the edges that a topology allows, spatial and temporal; random and layered ones depend
    on the seed."""
    rng = random.Random(f"{mode} {agents} {seed}")
    everyone = np.ones((agents, agents), dtype=np.bool_)
    nobody, others = ~everyone, ~np.eye(agents, dtype=np.bool_)
    match mode:
        case Mode.direct_answer:
            return nobody, nobody.copy()
        case Mode.full_connected:
            return others, everyone
        case Mode.random:
            spatial, temporal = (_random_mask(rng, agents) for _ in range(2))
            return spatial & others, temporal
        case Mode.chain:
            last_to_first = nobody.copy()
            last_to_first[-1, 0] = True
            return np.eye(agents, k=1, dtype=np.bool_), last_to_first
        case Mode.debate:
            return nobody, everyone
        case Mode.layered:
            first = np.arange(agents) < (agents + 1) // 2  # the larger half if the number is odd
            order = list(range(agents))
            rng.shuffle(order)
            speaks = first[order]
            return np.outer(speaks, ~speaks), everyone
        case Mode.star:
            return np.triu(everyone, k=1), everyone


def sigmoid(logits: Matrix) -> Matrix:
    """Return the probabilities of logits, without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))


def log_probability(logit: float, taken: bool) -> float:
    """Return the log-probability of taking an edge, or of not taking it; finite even if a
    probability is 0."""
    signed = float(logit if taken else -logit)
    return min(signed, 0.0) - math.log1p(math.exp(-abs(signed)))


def _edges(allowed: Mask, logit: float, optimized: bool) -> Edges:
    return Edges(allowed, allowed.copy(), np.full(allowed.shape, logit), optimized)


def _random_mask(rng: random.Random, agents: int) -> Mask:
    return np.array([[rng.random() < 0.5 for _ in range(agents)] for _ in range(agents)], dtype=np.bool_)

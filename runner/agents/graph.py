"""Who hears whom: the topology as masks, and one round's edges drawn from it.

A matrix has one row for each agent that speaks and one column for each that listens. Spatial edges lead to an agent of
the same round, so those that a round takes must be free of cycles: somebody has to speak first. Temporal edges lead
from the previous round to this one, between any two agents, also from an agent to itself.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from runner.config.agents import MAX_AGENTS, Mode

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
    """All edges of one kind: which the topology allows, which pruning has left, and the logit of each."""

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
        """Return the live edges in the order in which a round tries them: row by row."""
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
        """Return the untrained graph of a topology; direct_answer has one agent, whatever `agents` says."""
        assert 0 < initial_probability < 1
        size = 1 if mode is Mode.direct_answer else agents
        assert 1 <= size <= MAX_AGENTS
        spatial, temporal = masks(mode, size, seed)
        logit = math.log(initial_probability / (1 - initial_probability))
        return cls(mode, _edges(spatial, logit, optimized_spatial), _edges(temporal, logit, optimized_temporal))

    @property
    def agents(self) -> int:
        """How many agents the team has."""
        return len(self.spatial.allowed)

    @property
    def kinds(self) -> dict[Kind, Edges]:
        """The two kinds of edges by name."""
        return {"spatial": self.spatial, "temporal": self.temporal}

    def draw(self, rng: random.Random, round: int) -> Round:
        """Draw the edges of a round, counted from 0; the first one has no temporal edges."""
        choices: list[EdgeDecision] = []
        spatial = self._drawn("spatial", rng, choices)
        temporal = self._drawn("temporal", rng, choices) if round > 0 else []
        log_prob = math.fsum(
            log_probability(self.kinds[one.kind].logits[one.source, one.target], one.taken) for one in choices
        )
        return Round(tuple(spatial), tuple(temporal), tuple(choices), log_prob)

    def _drawn(self, kind: Kind, rng: random.Random, choices: list[EdgeDecision]) -> list[Edge]:
        """Draw the edges of one kind; a spatial edge that would close a cycle is skipped, without a choice."""
        edges, taken = self.kinds[kind], []
        weights = edges.weights
        reached_by = [
            1 << agent for agent in range(self.agents)
        ]  # bit j of agent i: i may have heard of j, directly or not
        for source, target in edges.scan():
            if kind == "spatial" and reached_by[source] >> target & 1:
                continue
            if edges.optimized:
                probability = float(weights[source, target])
                chosen = rng.random() < probability
                choices.append(EdgeDecision(kind, source, target, chosen, probability))
                if not chosen:
                    continue
            taken.append((source, target))
            for agent, before in enumerate(reached_by):
                if before >> target & 1:
                    reached_by[agent] |= reached_by[source]
        return taken


def masks(mode: Mode, agents: int, seed: int) -> tuple[Mask, Mask]:
    """Return the edges that a topology allows, spatial and temporal; random and layered ones depend on the seed."""
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
    """Return the log-probability of taking an edge, or of not taking it; finite even if a probability is 0."""
    signed = float(logit if taken else -logit)
    return min(signed, 0.0) - math.log1p(math.exp(-abs(signed)))


def _edges(allowed: Mask, logit: float, optimized: bool) -> Edges:
    return Edges(allowed, allowed.copy(), np.full(allowed.shape, logit), optimized)


def _random_mask(rng: random.Random, agents: int) -> Mask:
    return np.array([[rng.random() < 0.5 for _ in range(agents)] for _ in range(agents)], dtype=np.bool_)

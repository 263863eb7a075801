"""Learning who should hear whom: rounds of solved questions become likelier, and edges that do not help are pruned.

No gradient goes through the model: the choices of a round have a probability under the graph's logits, and its gradient
is simple (d log p / d logit = taken - probability), so numpy is enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner.agents.graph import Edge, Edges, Graph, Kind, Matrix, Round
from runner.config.agents import Baseline

Play = tuple[Sequence[Round], bool]  # all rounds of one question, and whether it was solved


@dataclass(frozen=True)
class TrainingStep:
    """The outcome of one iteration; `pruned` is empty if no pruning was due."""

    iteration: int  # counted from 1
    loss: float
    solved: float  # share of the questions
    live: dict[Kind, int]
    pruned: dict[Kind, tuple[Edge, ...]]


class Adam:
    """The optimizer Adam for one matrix of logits, as in torch."""

    def __init__(self, shape: tuple[int, ...], lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.lr, self.betas, self.eps = lr, betas, 1e-8
        self.mean, self.square = np.zeros(shape), np.zeros(shape)
        self.steps = 0

    def change(self, gradient: Matrix) -> Matrix:
        """Return the change of the logits in one step."""
        self.steps += 1
        first, second = self.betas
        self.mean += (1 - first) * (gradient - self.mean)
        self.square += (1 - second) * (gradient**2 - self.square)
        mean = self.mean / (1 - first**self.steps)
        spread = np.sqrt(self.square / (1 - second**self.steps))
        return -self.lr * mean / (spread + self.eps)


class Learner:
    """Trains the optimized kinds of a graph's edges, in place, one iteration of questions at a time."""

    def __init__(
        self,
        graph: Graph,
        *,
        lr: float = 0.1,
        pruning_rate: float = 0.25,
        imp_per_iterations: int = 5,
        baseline: Baseline = Baseline.none,
        nuclear_norm: float = 0.0,
    ) -> None:
        self.graph = graph
        self.pruning_rate, self.imp_per_iterations = pruning_rate, imp_per_iterations
        self.baseline, self.nuclear_norm = baseline, nuclear_norm
        self.iterations = 0
        shape = graph.spatial.logits.shape
        self.adams = {kind: Adam(shape, lr) for kind, edges in graph.kinds.items() if edges.optimized}

    def step(self, plays: Sequence[Play]) -> TrainingStep:
        """Learn from the questions of one iteration, then prune if that is due."""
        assert plays
        self.iterations += 1
        loss, gradients = self.gradients(plays)
        for kind, adam in self.adams.items():
            edges = self.graph.kinds[kind]
            change = adam.change(gradients[kind])
            edges.logits = np.where(edges.live, edges.logits + change, edges.logits)  # a pruned edge keeps its weight
        is_due = self.iterations % self.imp_per_iterations == 0
        pruned = {kind: tuple(prune(self.graph.kinds[kind], self.pruning_rate)) for kind in self.adams if is_due}
        solved = sum(was_solved for _, was_solved in plays) / len(plays)
        live = {kind: edges.count for kind, edges in self.graph.kinds.items()}
        return TrainingStep(self.iterations, loss, solved, live, pruned)

    def gradients(self, plays: Sequence[Play]) -> tuple[float, dict[Kind, Matrix]]:
        """Return the loss of one iteration, and its gradient by the logits of each kind that is optimized."""
        mean = sum(solved for _, solved in plays) / len(plays)
        loss, gradients = 0.0, {kind: np.zeros_like(self.graph.kinds[kind].logits) for kind in self.adams}
        for rounds, solved in plays:
            reward = (solved - (mean if self.baseline is Baseline.mean else 0.0)) / len(plays)
            loss -= reward * math.fsum(one.log_prob for one in rounds)
            for choice in (choice for one in rounds for choice in one.choices):
                gradients[choice.kind][choice.source, choice.target] -= reward * (choice.taken - choice.probability)
        if self.nuclear_norm and "spatial" in self.adams:
            norm, slope = low_rank(self.graph.spatial)
            loss += self.nuclear_norm * norm
            gradients["spatial"] += self.nuclear_norm * slope
        return loss, gradients


def low_rank(edges: Edges) -> tuple[float, Matrix]:
    """Return the nuclear norm of the live edges' weights, and its gradient by their logits.

    Low-rank graphs have small norms: few patterns of who hears whom, which the paper uses against noise. Where a
    singular value is 0 the norm has no unique gradient, and the shortest one is taken.
    """
    weights = np.where(edges.live, edges.weights, 0.0)
    left, values, right = np.linalg.svd(weights)
    rank = int((values > values.max() * len(values) * np.finfo(np.float64).eps).sum())
    slope = left[:, :rank] @ right[:rank]
    return float(values.sum()), slope * weights * (1 - weights)


def prune(edges: Edges, rate: float) -> list[Edge]:
    """Prune the edges with the lowest logits: round(live * rate) of them, at least one; none at rate 0.

    Ties go to the last one in the scan: rounds skip it most often, to avoid cycles.
    """
    live = edges.scan()
    wanted = max(1, round(len(live) * rate)) if rate else 0
    pruned = sorted(live, key=lambda edge: (float(edges.logits[edge]), -edge[0], -edge[1]))[:wanted]
    for edge in pruned:
        edges.live[edge] = False
    return pruned

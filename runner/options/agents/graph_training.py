"""Trains a team's communication graph by policy gradient, and prunes edges that do not help.

No gradient passes through the model. A round's choices have a probability under the graph's
logits with a simple gradient (d log p / d logit = taken - probability), so numpy suffices.
With baseline=mean the mean is that of the same iteration, so no state is carried over; a
mean over all iterations found the right edges no more often.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from runner.options.agents.graph import Edge, Edges, Graph, Kind, Mask, Matrix, Round
from runner.options.agents.keys import Baseline

PlayedQuestion = tuple[Sequence[Round], bool]  # all rounds of one question, and whether it was solved
Pruned = dict[Kind, tuple[Edge, ...]]
# what is added to the loss for a kind of edges, and its gradient by the logits
LossAndGradient = tuple[float, Matrix]
LossTermsByKind = Mapping[Kind, LossAndGradient]


@dataclass(frozen=True)
class TrainingStep:
    """Result of one training iteration. `pruned` lists the edges that were pruned."""

    iteration: int  # counted from 1
    loss: float
    solved: float  # share of the questions
    live: dict[Kind, int]
    pruned: Pruned


class Adam:
    """Adam optimizer for one array of edge logits. Results equal those of torch's Adam."""

    def __init__(self, shape: tuple[int, ...], lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.lr, self.betas, self.eps = lr, betas, 1e-8
        self.mean, self.square = np.zeros(shape), np.zeros(shape)
        self.steps = 0

    def compute_adam_update(self, gradient: Matrix) -> Matrix:
        self.steps += 1
        first, second = self.betas
        self.mean += (1 - first) * (gradient - self.mean)
        self.square += (1 - second) * (gradient**2 - self.square)
        mean = self.mean / (1 - first**self.steps)
        spread = np.sqrt(self.square / (1 - second**self.steps))
        return -self.lr * mean / (spread + self.eps)


class GraphTrainingMethod:
    """Base class of graph training methods. By default, a method adds no loss terms and prunes no edges."""

    baseline: Baseline = Baseline.none
    moves_all_logits: ClassVar[bool] = False  # else an edge that was pruned, or is none, keeps its logit

    def compute_loss_terms(self, graph: Graph) -> LossTermsByKind:
        """Return the method's additional loss and its gradient for the trained spatial and temporal edges."""
        optimized = {kind: edges for kind, edges in graph.edges_by_kind.items() if edges.optimized}
        return {
            kind: term
            for kind, edges in optimized.items()
            if (term := self.compute_loss_term(kind, edges)) is not None
        }

    def compute_loss_term(self, kind: Kind, edges: Edges) -> LossAndGradient | None:
        """Return the method's additional loss and its gradient for one kind of edges, or None without such a
        loss.
        """
        return None

    def prune_if_due(self, graph: Graph, iteration: int) -> Pruned:
        """Prune edges if the method prunes after this iteration. Iterations count from 1."""
        return {}


class GraphTrainer:
    """Trains the edge logits of a graph in place. Each iteration uses a batch of questions."""

    def __init__(self, graph: Graph, method: GraphTrainingMethod, lr: float = 0.1) -> None:
        self.graph, self.method = graph, method
        self.iterations = 0
        kinds = graph.edges_by_kind.items()
        self.adams = {kind: Adam(edges.logits.shape, lr) for kind, edges in kinds if edges.optimized}

    def update_edges_from_answers(self, answered_questions: Sequence[PlayedQuestion]) -> TrainingStep:
        """Update the edge logits from a batch of answered questions. Prunes edges in the iterations that the
        method chooses.
        """
        assert answered_questions
        self.iterations += 1
        loss, gradients = self.compute_gradients(answered_questions)
        for kind, adam in self.adams.items():
            edges = self.graph.edges_by_kind[kind]
            moved = edges.logits + adam.compute_adam_update(gradients[kind])
            edges.logits = (
                moved if self.method.moves_all_logits else np.where(edges.live, moved, edges.logits)
            )
        pruned = self.method.prune_if_due(self.graph, self.iterations)
        solved = sum(was_solved for _, was_solved in answered_questions) / len(answered_questions)
        live = {kind: edges.num_live for kind, edges in self.graph.edges_by_kind.items()}
        return TrainingStep(self.iterations, loss, solved, live, pruned)

    def compute_gradients(
        self, answered_questions: Sequence[PlayedQuestion]
    ) -> tuple[float, dict[Kind, Matrix]]:
        mean = sum(solved for _, solved in answered_questions) / len(answered_questions)
        loss, gradients = (
            0.0,
            {kind: np.zeros_like(self.graph.edges_by_kind[kind].logits) for kind in self.adams},
        )
        for rounds, solved in answered_questions:
            reward = (solved - (mean if self.method.baseline is Baseline.mean else 0.0)) / len(
                answered_questions
            )
            loss -= reward * math.fsum(round_.log_prob for round_ in rounds)
            for choice in (choice for round_ in rounds for choice in round_.choices):
                gradients[choice.kind][choice.edge] -= reward * (choice.taken - choice.probability)
        for kind, (value, slope) in self.method.compute_loss_terms(self.graph).items():
            loss += value
            gradients[kind] += slope
        return loss, gradients


def compute_low_rank_penalty(edges: Edges) -> tuple[float, Matrix]:
    """Return the nuclear norm of the matrix of edge probabilities, and its gradient with respect to the edge
    logits.

    Pruned edges have probability 0.

    Low-rank graphs have small norms: few communication patterns, which the papers use against
    noise.
    """
    weights = live_probabilities(edges)
    norm, slope = nuclear_norm(weights)
    return norm, slope * weights * (1 - weights)


def nuclear_norm(matrix: Matrix) -> tuple[float, Matrix]:
    """Return the nuclear norm of a matrix (the sum of its singular values) and its gradient.

    Where a singular value is 0 the gradient is not unique, and the shortest one is used.
    """
    left, values, right = np.linalg.svd(matrix)
    least = values.max() * len(matrix) * np.finfo(np.float64).eps
    return float(values.sum()), (left * (values > least)) @ right


def compute_distance_penalty(target: Mask, matrix: Matrix, tolerance: float) -> tuple[float, Matrix]:
    """Return the excess of the Frobenius norm of `target - matrix` over the tolerance, and its gradient."""
    apart = matrix - target
    distance = float(np.sqrt((apart**2).sum()))
    return (distance - tolerance, apart / distance) if distance > tolerance else (0.0, np.zeros_like(matrix))


def live_probabilities(edge_set: Edges) -> Matrix:
    """Return the matrix of edge probabilities, with 0 for pruned edges. Papers call this matrix the mask
    S.
    """
    return np.where(edge_set.live, edge_set.probabilities, 0.0)


def prune_edges_with_lowest_logits(edges: Edges, pruning_rate: float) -> list[Edge]:
    """Prune the given fraction of edges, and at least one edge. Edges with the lowest logits are pruned
    first.

    A rate of 0 prunes no edge.

    Among ties the last edge in scan order is pruned, because rounds skip it most often to avoid
    cycles.
    """
    live = edges.list_live()
    wanted = max(1, round(len(live) * pruning_rate)) if pruning_rate else 0
    pruned = sorted(live, key=lambda edge: (float(edges.logits[edge]), -edge[0], -edge[1]))[:wanted]
    for edge in pruned:
        edges.live[edge] = False
    return pruned

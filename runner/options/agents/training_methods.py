"""Training methods for a team's graph, each with its loss terms and its pruning.

runner            nuclear norm of the spatial mask and a baseline, both optional; prunes periodically
agent_prune       the paper: nuclear norms of both masks, closeness to graph; prunes at the end
agent_prune_code  the published code: the same two terms of the raw logits; prunes periodically

docs/agents.md compares them. The mask S of the formulas contains the probabilities of the
live edges.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from runner.options.agents.graph import Edges, Graph, Kind
from runner.options.agents.graph_file import Setting
from runner.options.agents.graph_training import (
    GraphTrainer,
    GraphTrainingMethod,
    LossAndGradient,
    Pruned,
    compute_distance_penalty,
    compute_low_rank_penalty,
    live_probabilities,
    nuclear_norm,
    prune_edges_with_lowest_logits,
)
from runner.options.agents.keys import OF_SOME_METHODS, AgentsConfig, Baseline, TrainingMethod

SETTINGS = ("batch_size", "pruning_rate", "learning_rate", "initial_probability", "train_split")


class PeriodicPruning(GraphTrainingMethod):
    """Base class of training methods that prune edges periodically, separately for spatial and temporal
    edges.
    """

    def __init__(self, pruning_rate: float = 0.25, imp_per_iterations: int = 5) -> None:
        self.pruning_rate, self.imp_per_iterations = pruning_rate, imp_per_iterations

    def prune_if_due(self, graph: Graph, iteration: int) -> Pruned:
        """Prune the trained edges of each kind if the pruning interval has passed."""
        return {} if iteration % self.imp_per_iterations else prune_trained_edges(graph, self.pruning_rate)


class RunnerMethod(PeriodicPruning):
    """The runner's own training method, with an optional reward baseline and an optional low-rank loss."""

    def __init__(
        self,
        pruning_rate: float = 0.25,
        imp_per_iterations: int = 5,
        baseline: Baseline = Baseline.none,
        nuclear_norm: float = 0.0,
    ) -> None:
        super().__init__(pruning_rate, imp_per_iterations)
        self.baseline, self.nuclear_norm = baseline, nuclear_norm

    def compute_loss_term(self, kind: Kind, edges: Edges) -> LossAndGradient | None:
        """Return the nuclear norm of the spatial edges' probabilities, times its weight."""
        if not self.nuclear_norm or kind != "spatial":
            return None
        norm, slope = compute_low_rank_penalty(edges)
        return self.nuclear_norm * norm, self.nuclear_norm * slope


class AgentPrune(GraphTrainingMethod):
    """AgentPrune as described in its paper: both edge matrices stay low-rank and close to the initial graph.

    Edges are pruned once, at the end.
    """

    def __init__(self, iterations: int = 10, pruning_rate: float = 0.25, delta: float = 0.1) -> None:
        self.iterations, self.pruning_rate, self.delta = iterations, pruning_rate, delta

    def compute_loss_term(self, _: Kind, edges: Edges) -> LossAndGradient:
        """Return the loss ‖S‖ + relu(‖A − S‖ − delta): nuclear norm plus excess Frobenius distance to
        graph A.
        """
        mask = live_probabilities(edges)
        norm, norm_slope = nuclear_norm(mask)
        apart, apart_slope = compute_distance_penalty(edges.allowed, mask, self.delta)
        return norm + apart, (norm_slope + apart_slope) * mask * (1 - mask)

    def prune_if_due(self, graph: Graph, iteration: int) -> Pruned:
        """Prune once, after the last training iteration."""
        return prune_trained_edges(graph, self.pruning_rate) if iteration == self.iterations else {}


class AgentPruneCode(PeriodicPruning):
    """AgentPrune as in its published code, which differs from the paper.

    The loss uses raw logits, even of edges that are not allowed.
    """

    moves_all_logits: ClassVar[bool] = True

    def __init__(self, pruning_rate: float = 0.25, imp_per_iterations: int = 5, delta: float = 0.1) -> None:
        super().__init__(pruning_rate, imp_per_iterations)
        self.delta = delta

    def compute_loss_term(self, _: Kind, edges: Edges) -> LossAndGradient:
        """Return the loss ‖Z‖ + relu(‖A − Z‖ − delta) of the edge logits Z and the initial graph A."""
        norm, norm_slope = nuclear_norm(edges.logits)
        apart, apart_slope = compute_distance_penalty(edges.allowed, edges.logits, self.delta)
        return norm + apart, norm_slope + apart_slope


def prune_trained_edges(graph: Graph, pruning_rate: float) -> Pruned:
    """Prune the trained edges within a round (spatial) and between rounds (temporal) separately."""
    return {
        kind: tuple(prune_edges_with_lowest_logits(edges, pruning_rate))
        for kind, edges in graph.edges_by_kind.items()
        if edges.optimized
    }


def make_graph_trainer(task: AgentsConfig, graph: Graph) -> GraphTrainer:
    """Return a trainer for the graph that uses the training method of the task's config."""
    return GraphTrainer(graph, make_training_method(task), lr=task.learning_rate)


def collect_training_settings(task: AgentsConfig) -> dict[str, Setting]:
    """Return the training method's settings by name, to be stored in the graph file."""
    names = [*SETTINGS, *(name for name, (_, methods) in OF_SOME_METHODS.items() if task.method in methods)]
    settings = {name: getattr(task, name) for name in names} | {"method": task.method}
    return {name: str(value) if isinstance(value, StrEnum) else value for name, value in settings.items()}


def make_training_method(task: AgentsConfig) -> GraphTrainingMethod:
    """Return the training method of the task's config, with its settings."""
    match task.method:
        case TrainingMethod.runner:
            return RunnerMethod(task.pruning_rate, task.imp_per_iterations, task.baseline, task.nuclear_norm)
        case TrainingMethod.agent_prune:
            return AgentPrune(task.num_iterations, task.pruning_rate, task.delta)
        case TrainingMethod.agent_prune_code:
            return AgentPruneCode(task.pruning_rate, task.imp_per_iterations, task.delta)
        case TrainingMethod.none:
            return GraphTrainingMethod()

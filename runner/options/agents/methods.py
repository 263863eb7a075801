"""The published ways of learning a team's graph, by name, and ours: what each adds to the policy gradient.

    runner            nuclear norm of the spatial mask if requested, a baseline if requested; prunes now and then
    agent_prune       the paper: nuclear norms of both masks, closeness to the given graph; prunes once, at the end
    agent_prune_code  the published code: the same two terms of the raw logits; prunes now and then

docs/agents.md compares them. The mask S of the formulas holds the probabilities of the live edges.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from runner.options.agents.graph import Edges, Graph, Kind
from runner.options.agents.graph_file import Setting
from runner.options.agents.keys import OF_SOME_METHODS, AgentsConfig, Baseline, Method
from runner.options.agents.learning import (
    Learner,
    LearningMethod,
    Pruned,
    Term,
    closeness,
    live_weights,
    low_rank,
    nuclear_norm,
    prune,
)

SETTINGS = ("batch_size", "pruning_rate", "learning_rate", "initial_probability", "train_split")


class NowAndThen(LearningMethod):
    """Prunes after every so many iterations, each kind for itself."""

    def __init__(self, pruning_rate: float = 0.25, imp_per_iterations: int = 5) -> None:
        self.pruning_rate, self.imp_per_iterations = pruning_rate, imp_per_iterations

    def after(self, graph: Graph, iteration: int) -> Pruned:
        """Prune each optimized kind if that is due."""
        return {} if iteration % self.imp_per_iterations else pruned_kinds(graph, self.pruning_rate)


class Ours(NowAndThen):
    """The runner's own: a baseline and the low-rank term of the spatial mask are options."""

    def __init__(
        self,
        pruning_rate: float = 0.25,
        imp_per_iterations: int = 5,
        baseline: Baseline = Baseline.none,
        nuclear_norm: float = 0.0,
    ) -> None:
        super().__init__(pruning_rate, imp_per_iterations)
        self.baseline, self.nuclear_norm = baseline, nuclear_norm

    def term(self, kind: Kind, edges: Edges) -> Term | None:
        """Return w · ‖S‖ of the spatial mask."""
        if not self.nuclear_norm or kind != "spatial":
            return None
        norm, slope = low_rank(edges)
        return self.nuclear_norm * norm, self.nuclear_norm * slope


class AgentPrune(LearningMethod):
    """AgentPrune as its paper describes it: both masks near the given graph and of low rank, one
    pruning at the end."""

    def __init__(self, iterations: int = 10, pruning_rate: float = 0.25, delta: float = 0.1) -> None:
        self.iterations, self.pruning_rate, self.delta = iterations, pruning_rate, delta

    def term(self, _: Kind, edges: Edges) -> Term:
        """Return ‖S‖ + relu(‖A − S‖ of Frobenius − delta)."""
        mask = live_weights(edges)
        norm, norm_slope = nuclear_norm(mask)
        apart, apart_slope = closeness(edges.allowed, mask, self.delta)
        return norm + apart, (norm_slope + apart_slope) * mask * (1 - mask)

    def after(self, graph: Graph, iteration: int) -> Pruned:
        """Prune once, after the last iteration."""
        return pruned_kinds(graph, self.pruning_rate) if iteration == self.iterations else {}


class AgentPruneCode(NowAndThen):
    """AgentPrune as published code does it: the terms are of the raw logits, also of those that
    belong to no edge."""

    moves_all_logits: ClassVar[bool] = True

    def __init__(self, pruning_rate: float = 0.25, imp_per_iterations: int = 5, delta: float = 0.1) -> None:
        super().__init__(pruning_rate, imp_per_iterations)
        self.delta = delta

    def term(self, _: Kind, edges: Edges) -> Term:
        """Return ‖Z‖ + relu(‖A − Z‖ of Frobenius − delta) of the logits Z."""
        norm, norm_slope = nuclear_norm(edges.logits)
        apart, apart_slope = closeness(edges.allowed, edges.logits, self.delta)
        return norm + apart, norm_slope + apart_slope


def pruned_kinds(graph: Graph, rate: float) -> Pruned:
    """Prune each optimized kind for itself."""
    return {kind: tuple(prune(edges, rate)) for kind, edges in graph.kinds.items() if edges.optimized}


def learner_of(task: AgentsConfig, graph: Graph) -> Learner:
    """Return what trains a graph by the task's method."""
    return Learner(graph, method_of(task), lr=task.learning_rate)


def settings_of(task: AgentsConfig) -> dict[str, Setting]:
    """Return the settings of a training by name, for the file of its graph: those that the method
    uses."""
    names = [*SETTINGS, *(name for name, (_, methods) in OF_SOME_METHODS.items() if task.method in methods)]
    settings = {name: getattr(task, name) for name in names} | {"method": task.method}
    return {name: str(value) if isinstance(value, StrEnum) else value for name, value in settings.items()}


def method_of(task: AgentsConfig) -> LearningMethod:
    """Return the task's method with its settings."""
    match task.method:
        case Method.runner:
            return Ours(task.pruning_rate, task.imp_per_iterations, task.baseline, task.nuclear_norm)
        case Method.agent_prune:
            return AgentPrune(task.num_iterations, task.pruning_rate, task.delta)
        case Method.agent_prune_code:
            return AgentPruneCode(task.pruning_rate, task.imp_per_iterations, task.delta)
        case Method.none:
            return LearningMethod()

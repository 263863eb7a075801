"""The published ways of learning a team's graph, by name, and ours: what each adds to the policy gradient.

    runner            nuclear norm of the spatial mask if requested, a baseline if requested; prunes now and then
    agent_prune       the paper: nuclear norms of both masks, closeness to the given graph; prunes once, at the end
    agent_prune_code  the published code: the same two terms of the raw logits; prunes now and then
    agent_dropout     first agents go from each round, then edges; each round has its own matrices

docs/agents.md compares them. The mask S of the formulas holds the probabilities of the live edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar

import numpy as np

from runner.options.agents.graph import Edges, Graph, Kind, Matrix
from runner.options.agents.graph_file import Setting
from runner.options.agents.keys import OF_SOME_METHODS, AgentsConfig, Baseline, Method, dropped_agents
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


class AgentDropout(LearningMethod):
    """AgentDropout: agents with the smallest degree leave each round, then training starts anew and
    edges go."""

    def __init__(
        self, iterations: int = 10, node_pruning_rate: float = 0.2, pruning_rate: float = 0.25
    ) -> None:
        self.iterations, self.node_pruning_rate, self.pruning_rate = (
            iterations,
            node_pruning_rate,
            pruning_rate,
        )
        self.drops_agents = node_pruning_rate > 0  # otherwise the first stage would have no purpose
        self.is_first_stage = self.drops_agents
        self.untrained: dict[str, Matrix] = {}
        self.has_random_temporal = False

    def begin(self, graph: Graph) -> None:
        """Let the first stage take all temporal edges: it learns the spatial ones only."""
        assert graph.rounds is not None
        self.untrained = {kind: edges.logits.copy() for kind, edges in graph.kinds.items()}
        self.has_random_temporal = graph.temporal.optimized
        if self.is_first_stage:
            graph.temporal.optimized = False

    def term(self, _: Kind, edges: Edges) -> Term | None:
        """Return ‖S‖ of each matrix, in the second stage only."""
        return None if self.is_first_stage else low_rank(edges)

    def after(self, graph: Graph, iteration: int) -> Pruned:
        """At the end of the first stage silence agents, at the end of the second prune edges."""
        if self.starts_anew(iteration):
            graph.silence(weakest_agents(graph, self.node_pruning_rate))
            for kind, edges in graph.kinds.items():
                edges.logits = self.untrained[kind].copy()
            graph.temporal.optimized = self.has_random_temporal
            self.is_first_stage = False
        elif iteration == self.iterations * (1 + self.drops_agents):
            return pruned_kinds(graph, self.pruning_rate)
        return {}

    def starts_anew(self, iteration: int) -> bool:
        """Whether the first stage ends with this iteration."""
        return self.drops_agents and iteration == self.iterations


def weakest_agents(graph: Graph, rate: float) -> list[tuple[int, int]]:
    """Return, as round and agent, those with the smallest sums of spatial weights, to and from
    them, in each round.

    Of equal ones the last goes.
    """
    found = []
    for number, square in enumerate(graph.spatial.squares):
        weights = live_weights(square)
        degrees = weights.sum(axis=0) + weights.sum(axis=1)
        order = sorted(range(graph.agents), key=lambda agent: (float(np.round(degrees[agent], 12)), -agent))
        found += [(number, agent) for agent in order[: dropped_agents(graph.agents, rate)]]
    return found


def pruned_kinds(graph: Graph, rate: float) -> Pruned:
    """Prune each optimized kind for itself."""
    return {kind: tuple(prune(edges, rate)) for kind, edges in graph.kinds.items() if edges.optimized}


def silence_words(graph: Graph, titles: Sequence[str]) -> list[str]:
    """Say of each agent that training has silenced in which rounds, counted from 1."""
    rounds: dict[int, list[str]] = {}
    for round, agent in sorted(graph.silent):
        rounds.setdefault(agent, []).append(str(round + 1))
    return [
        f"agent {agent + 1} ({titles[agent]}) is not called in round {', '.join(numbers)}"
        for agent, numbers in sorted(rounds.items())
    ]


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
        case Method.agent_dropout:
            return AgentDropout(task.num_iterations, task.node_pruning_rate, task.pruning_rate)
        case Method.none:
            return LearningMethod()

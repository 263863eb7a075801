"""What a team's job works on: its questions, those that train its graph, and the untrained
graph."""

from __future__ import annotations

from dataclasses import dataclass

from runner.config.root import RunnerConfig
from runner.datasets.chosen import hashes_of_choice
from runner.datasets.gsm8k import describe_questions, items_sha256, load_questions
from runner.datasets.items import Item
from runner.options.agents import graph_file
from runner.options.agents.graph import Graph
from runner.options.agents.keys import AgentsConfig, Mode
from runner.options.agents.team import Team
from runner.options.agents.train_questions import train_questions
from runner.tasks.base import Inputs, own_config
from runner_base import ConfigError, DataError


@dataclass
class Assignment(Inputs):
    """The questions that are scored, those that train the graph, and the untrained graph."""

    task: AgentsConfig
    items: list[Item]
    train: list[Item]
    graph: Graph
    left_out: int  # training questions that are among the scored ones


def prepare(config: RunnerConfig) -> Assignment:
    """Read and hash questions and graph; no question both trains and is scored."""
    task = own_config(config, AgentsConfig)
    items = load_questions(task)
    train, left_out = train_questions(task, items) if task.is_trained else ([], 0)
    hashes = {"data": items_sha256(items)} | hashes_of_choice(task, items)
    if task.is_trained:
        hashes["train"] = items_sha256(train)
    if task.graph is not None:
        graph = _saved_graph(task, task.graph)
        hashes["graph"] = graph_file.sha256(graph)
    else:
        graph = Graph.of(
            task.mode,
            task.agents,
            seed=config.seed,
            initial_probability=task.initial_probability,
            optimized_spatial=task.optimized_spatial,
            optimized_temporal=task.optimized_temporal,
        )
    source = describe_questions(task.data, task.split, hashes["data"])
    return Assignment(hashes, task, items, train, graph, left_out, data=source, count=len(items))


def _saved_graph(task: AgentsConfig, path: str) -> Graph:
    """Read the graph that an earlier job has learned; reject one of another team."""
    try:
        saved = graph_file.load(path)
    except DataError as error:
        raise DataError(str(error), key="task.graph", value=path, code=error.code) from error
    graph, agents = saved.graph, 1 if task.mode is Mode.direct_answer else task.agents
    if graph.agents != agents or graph.mode is not task.mode:
        raise ConfigError(
            f"it is a {graph.mode} graph of {graph.agents} agents, and task.mode={task.mode}, "
            f"task.agents={agents}: give task.mode={graph.mode} task.agents={graph.agents}",
            key="task.graph",
            value=path,
            code="mismatch",
        )
    roles = team_of(task, graph).titles
    if saved.roles != roles:
        raise ConfigError(
            f"its agents are {', '.join(saved.roles)}, and this team's {', '.join(roles)}: "
            "give the same task.roles",
            key="task.graph",
            value=path,
            code="mismatch",
        )
    return graph


def team_of(task: AgentsConfig, graph: Graph) -> Team:
    """Return the agents of a graph; for samples, the one agent."""
    return Team.of(graph.agents, task.roles, task.domain, task.decision_method, task.has_letters)

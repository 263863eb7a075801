"""Inputs of a job of task=agents: scored questions, training questions and the untrained graph."""

from __future__ import annotations

from dataclasses import dataclass

from runner.config.root import RunnerConfig
from runner.datasets.items import Item
from runner.datasets.question_subsets import hash_question_subset
from runner.datasets.questions import describe_dataset, hash_questions, load_questions
from runner.options.agents import graph_file
from runner.options.agents.discussion import Team
from runner.options.agents.graph import Graph
from runner.options.agents.keys import AgentsConfig, Topology
from runner.options.agents.train_questions import load_unscored_train_questions
from runner.tasks.base import TaskInputs, typed_task_config
from runner_base import ConfigError, DataError


@dataclass
class AgentsInputs(TaskInputs):
    """Scored questions, training questions and untrained graph of a job of task=agents."""

    task: AgentsConfig
    items: list[Item]
    train: list[Item]
    graph: Graph
    left_out: int  # training questions that are among the scored ones


def prepare(config: RunnerConfig) -> AgentsInputs:
    """Read and hash the questions and the graph. Training questions exclude scored questions."""
    task = typed_task_config(config, AgentsConfig)
    items = load_questions(task)
    train, left_out = load_unscored_train_questions(task, items) if task.is_trained else ([], 0)
    hashes = {"data": hash_questions(items)} | hash_question_subset(task, items)
    if task.is_trained:
        hashes["train"] = hash_questions(train)
    if task.graph is not None:
        graph = _load_saved_graph(task, task.graph)
        hashes["graph"] = graph_file.hash_graph(graph)
    else:
        graph = Graph.create_from_topology(
            task.mode,
            task.agents,
            seed=config.seed,
            initial_probability=task.initial_probability,
            train_spatial=task.optimized_spatial,
            train_temporal=task.optimized_temporal,
        )
    source = describe_dataset(task.data, task.split, hashes["data"])
    return AgentsInputs(hashes, task, items, train, graph, left_out, data=source, count=len(items))


def _load_saved_graph(task: AgentsConfig, path: str) -> Graph:
    """Load a graph that an earlier job trained. Raises ConfigError if the graph belongs to a different
    team.
    """
    try:
        saved = graph_file.load_graph(path)
    except DataError as error:
        raise DataError(str(error), key="task.graph", value=path, code=error.code) from error
    graph, agents = saved.graph, 1 if task.mode is Topology.direct_answer else task.agents
    if graph.num_agents != agents or graph.mode is not task.mode:
        raise ConfigError(
            (
                f"the graph needs task.mode={graph.mode} task.agents={graph.num_agents}, but the job "
                f"has task.mode={task.mode} task.agents={agents}"
            ),
            key="task.graph",
            value=path,
            code="mismatch",
        )
    roles = make_team(task, graph).role_titles
    if saved.roles != roles:
        raise ConfigError(
            (
                f"the graph's agents are {', '.join(saved.roles)}, but this job's are "
                f"{', '.join(roles)}. Give the same task.roles"
            ),
            key="task.graph",
            value=path,
            code="mismatch",
        )
    return graph


def make_team(task: AgentsConfig, graph: Graph) -> Team:
    return Team.create_team_with_cycled_roles(
        graph.num_agents, task.roles, task.domain, task.decision_method, task.has_letters
    )

"""Loads the questions for training a team's graph, without the questions that the job scores."""

from __future__ import annotations

from dataclasses import replace

from runner.datasets.items import Item
from runner.datasets.questions import load_questions, reject_large_embedded_count
from runner.options.agents.keys import AgentsConfig
from runner_base import ConfigError
from runner_base.errors import rename_config_keys_in_error


def load_unscored_train_questions(task: AgentsConfig, scored_items: list[Item]) -> tuple[list[Item], int]:
    """Return the training questions without scored questions, and the number of questions that were
    excluded.
    """
    if (task.train_split, task.train_offset) == (task.split, task.offset):
        raise ConfigError(
            (
                "scored questions must not train the graph, and this split is scored. Give "
                "another task.train_split, or a larger task.train_offset"
            ),
            key="task.train_split",
            value=task.train_split,
            code="conflict",
        )
    needed = task.num_training_questions
    both = f"{task.num_iterations} with task.batch_size={task.batch_size}"
    reject_large_embedded_count(task.data, "task.num_iterations", both, needed)
    scored = {item.question for item in scored_items}
    try:
        whole = replace(
            task, split=task.train_split, offset=task.train_offset, limit=needed + len(scored_items)
        )
        # files choose scored questions only
        questions = load_questions(replace(whole, only=None, unscored=None))
    except ConfigError as error:  # it names the keys of the scored questions
        names = {"task.split": "task.train_split", "task.offset": "task.train_offset"}
        raise rename_config_keys_in_error(error, names) from error
    train = [item for item in questions if item.question not in scored]
    if not train:
        raise ConfigError(
            (
                f"task.train_split={task.train_split}, task.train_offset={task.train_offset}: no "
                f"training question is left, because all are among the {len(scored_items)} scored "
                "questions. Lower task.limit, or use another split"
            ),
            code="empty",
        )
    return train[:needed], len(questions) - len(train)

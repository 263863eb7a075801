"""The questions that train a team's graph: none of them is scored."""

from __future__ import annotations

from dataclasses import replace

from runner.datasets.gsm8k import check_made, load_questions
from runner.datasets.items import Item
from runner.options.agents.keys import AgentsConfig
from runner_base import ConfigError
from runner_base.errors import rename_keys


def train_questions(task: AgentsConfig, items: list[Item]) -> tuple[list[Item], int]:
    """Return the training questions, none of them scored, and how many were left out because they
    are."""
    if (task.train_split, task.train_offset) == (task.split, task.offset):
        raise ConfigError(
            "the scored questions are of this split, and none of them may train "
            "the graph. Give another task.train_split, or skip the first N questions with task.train_offset=N",
            key="task.train_split",
            value=task.train_split,
            code="conflict",
        )
    needed = task.train_questions
    both = f"{task.num_iterations} with task.batch_size={task.batch_size}"
    check_made(task.data, "task.num_iterations", both, needed)
    scored = {item.question for item in items}
    try:
        whole = replace(task, split=task.train_split, offset=task.train_offset, limit=needed + len(items))
        # files choose scored questions only
        questions = load_questions(replace(whole, only=None, without=None))
    except ConfigError as error:  # it names the keys of the scored questions
        names = {"task.split": "task.train_split", "task.offset": "task.train_offset"}
        raise rename_keys(error, names) from error
    train = [item for item in questions if item.question not in scored]
    if not train:
        raise ConfigError(
            f"task.train_split={task.train_split}, task.train_offset={task.train_offset}: all questions "
            f"are among the {len(items)} scored ones, and none is left for training. Score fewer (task.limit), or give "
            "data with another split",
            code="empty",
        )
    return train[:needed], len(questions) - len(train)

"""Every task: its name, and the class of its keys; those of options come by entry points."""

from __future__ import annotations

from runner.config.gsm8k import Gsm8kConfig
from runner.config.likelihood import LikelihoodConfig
from runner.config.measures import MemoryConfig, SweepConfig
from runner.config.task import TaskConfig
from runner_base.plugins import Choices

_OWN: dict[str, type[TaskConfig]] = {
    "gsm8k": Gsm8kConfig,
    "likelihood": LikelihoodConfig,
    "sweep": SweepConfig,
    "memory": MemoryConfig,
}
TASKS = Choices("task", TaskConfig, _OWN)

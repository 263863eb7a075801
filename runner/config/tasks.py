"""Every task: its name, and the class of its keys; those of options come by entry points."""

from __future__ import annotations

from runner.config.task import TaskConfig
from runner_base.choices import Choices

PLACES = {
    "gsm8k": "runner.config.gsm8k:Gsm8kConfig",
    "likelihood": "runner.config.likelihood:LikelihoodConfig",
    "sweep": "runner.config.measures:SweepConfig",
    "memory": "runner.config.measures:MemoryConfig",
}
TASKS = Choices("task", TaskConfig, PLACES)

"""Registry of tasks, from task name to config class. chat, generate and options are added by entry
points.
"""

from __future__ import annotations

from runner.config.task import TaskConfig
from runner_base.choices import Choices

PLACES = {
    "gsm8k": "runner.tasks.gsm8k.keys:Gsm8kConfig",
    "likelihood": "runner.tasks.likelihood.keys:LikelihoodConfig",
    "recall": "runner.tasks.recall.keys:RecallConfig",
    "tools": "runner.tasks.tools.keys:ToolsConfig",
    "sweep": "runner.config.measures:SweepConfig",
    "memory": "runner.tasks.memory.keys:MemoryConfig",
}
TASKS = Choices("task", TaskConfig, PLACES)

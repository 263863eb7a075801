"""Every task: its name, and the class of its keys; those of options come by entry points."""

from __future__ import annotations

from runner.config.likelihood import LikelihoodConfig
from runner.config.measures import MemoryConfig, SweepConfig
from runner.config.task import (
    ArchiveConfig,
    ChatConfig,
    GenerateConfig,
    Gsm8kConfig,
    MergeConfig,
    SplitConfig,
    TaskConfig,
    VerifyConfig,
)
from runner_base.plugins import Choices

_OWN: dict[str, type[TaskConfig]] = {
    "gsm8k": Gsm8kConfig,
    "generate": GenerateConfig,
    "chat": ChatConfig,
    "likelihood": LikelihoodConfig,
    "sweep": SweepConfig,
    "memory": MemoryConfig,
    "split": SplitConfig,
    "merge": MergeConfig,
    "verify": VerifyConfig,
    "archive": ArchiveConfig,
}
TASKS = Choices("task", TaskConfig, _OWN)

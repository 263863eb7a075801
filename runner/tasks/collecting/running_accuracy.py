"""Policy that reports the accuracy so far, on the progress line and in MLflow."""

from __future__ import annotations

from runner.tasks.base import TaskContext
from runner.tasks.collecting.policy import Policy
from runner_base import Sample


class RunningAccuracy(Policy):
    """Policy that reports the accuracy so far. Questions that do not count are ignored.

    `metric` is the name of the finished job's metric, and `label` the name on the progress line.
    """

    def __init__(self, context: TaskContext, metric: str = "accuracy", label: str = "accuracy") -> None:
        self._metric, self._label = metric, label
        self._sum, self._count = 0.0, 0
        for sample in context.recorder.done.values():
            self.on_answer(sample)

    def on_answer(self, sample: Sample) -> None:
        if not sample.left_out:
            self._sum += sample.accuracy()
            self._count += 1

    def progress_fields(self) -> dict[str, str]:
        return {self._label: f"{self._sum / self._count:.1%}"} if self._count else {}

    def progress_metrics(self) -> dict[str, float]:
        return {self._metric: self._sum / self._count} if self._count else {}

"""Selects points of a running job's progress for MLflow, and logs them without delaying the job."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

PREFIX = "progress/"  # of metric names; MLflow groups its charts by prefix
MAX_POINTS = 200
POINT_EVERY_S = 1.0
SEND_EVERY_S = 5.0
WAIT_AT_END_S = 5.0


@dataclass(frozen=True)
class ProgressPoint:
    """Metrics of a job after `num_answered` questions."""

    num_answered: int
    time_ms: int
    metrics: Mapping[str, float]


Send = Callable[[Sequence[ProgressPoint]], bool]


class JobProgress:
    """Selects at most MAX_POINTS points of a job, and sends them every SEND_EVERY_S seconds.

    A job that answers all its questions within SEND_EVERY_S seconds has no points.

    send: takes the points, or returns False if they must wait for the next call.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._unsent: list[ProgressPoint] = []
        self._latest: ProgressPoint | None = None
        self._began_s = self._selected_s = self._sent_s = 0.0
        self._next_step = self._selected_step = 0

    def add_progress_point(self, num_answered: int, num_questions: int, metrics: Mapping[str, float]) -> None:
        now_s = time.monotonic()
        if self._latest is None:
            self._began_s = self._selected_s = self._sent_s = now_s
        self._latest = ProgressPoint(num_answered, int(time.time() * 1000), metrics)
        if now_s - self._selected_s < POINT_EVERY_S or num_answered < self._next_step:
            return
        self._select_latest()
        self._selected_s, self._next_step = now_s, num_answered + math.ceil(num_questions / MAX_POINTS)
        if now_s - self._sent_s >= SEND_EVERY_S and self._send(self._unsent):
            self._unsent, self._sent_s = [], now_s

    def take_unsent_progress_points(self) -> list[ProgressPoint]:
        """Return the points that were not sent. The last of them is the job's last state."""
        if time.monotonic() - self._began_s < SEND_EVERY_S:
            return []
        self._select_latest()
        unsent, self._unsent = self._unsent, []
        return unsent

    def _select_latest(self) -> None:
        if self._latest is not None and self._latest.num_answered > self._selected_step:
            self._unsent.append(self._latest)
            self._selected_step = self._latest.num_answered


class BackgroundSender:
    """Calls `log_points` in a thread, so that a slow store does not delay the job."""

    def __init__(self, log_points: Callable[[Sequence[ProgressPoint]], None]) -> None:
        self._log_points = log_points
        self._thread: threading.Thread | None = None

    def send(self, points: Sequence[ProgressPoint]) -> bool:
        """Start to log the points. Returns False if the earlier points are still being logged."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self._thread = threading.Thread(target=self._log_points, args=[points], name="progress", daemon=True)
        self._thread.start()
        return True

    def wait(self) -> None:
        """Wait at most WAIT_AT_END_S seconds until the points are logged."""
        if self._thread is not None:
            self._thread.join(WAIT_AT_END_S)

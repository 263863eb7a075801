"""Implements hydra/launcher=ray: runs a grid's jobs as Ray tasks, on a cluster or on this machine.

Ray places the jobs by the estimated memory and threads. A job whose process dies has
failed. A job whose node dies is restarted on another node from its samples. The nodes need
not share a disk.

hydra-ray-launcher pins cloudpickle below 3, which joblib 1.6 excludes, returns all results
together or none, and needs one disk under all nodes.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from runner.config.root import AUTO, RunnerConfig
from runner.grid.launchers import PlanLauncher
from runner.grid.plan import PlannedJob
from runner.options.launchers.ray_grid import RayExecutor, RayResources
from runner.options.launchers.ray_jobs import SharedFile
from runner_base import ConfigError, signals, write_text_atomically

log = logging.getLogger(__name__)

MAX_STARTS = 3
CONNECT_S = 10.0
# what Ray says when its own processes took more than 30 s, as on a busy machine; no setting changes
# that limit
STARTED_SLOWLY = "The current node timed out during startup"


class RayLauncher(PlanLauncher):
    def __init__(self, address: str | None = None, **request: Any) -> None:
        super().__init__()
        self.address, self.request = address, RayResources(**request)

    def run_jobs(
        self, settings: RunnerConfig, plan: list[PlannedJob], numbers: list[int], **shared: Any
    ) -> bool:
        # Ray prints what happens to its nodes; stdout is for the grid's result
        with (
            redirect_stdout(sys.stderr),
            connect_to_ray(self.address),
            write_shared_folder_test_file(Path(settings.output_dir)) as file,
        ):
            at_once = len(numbers) if settings.workers == AUTO else int(settings.workers)
            return RayExecutor(
                plan=plan, numbers=numbers, request=self.request, shared=file, at_once=at_once, **shared
            ).run()


@contextmanager
def connect_to_ray(address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster, or start Ray on this machine, for the duration of the context."""
    import ray

    check_cluster_reachable(address or os.environ.get("RAY_ADDRESS", ""))
    dashboard = None if address else False
    for start in range(1, MAX_STARTS + 1):
        try:
            with signals.preserve_signal_handlers():
                ray.init(
                    address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR
                )
            break
        except Exception as error:  # Ray raises plain ones, too
            ray.shutdown()
            if start < MAX_STARTS and STARTED_SLOWLY in str(error):
                log.warning(
                    "Ray did not start within 30 s, perhaps because the machine is busy. Attempt %d of %d",
                    start + 1,
                    MAX_STARTS,
                )
                continue
            key, value = ("hydra.launcher.address", address) if address else ("hydra/launcher", "ray")
            reason = " ".join(str(error).split())[:400] or type(error).__name__
            raise ConfigError(
                f"no connection to Ray: {reason}", key=key, value=value, code="unreachable"
            ) from error
    try:
        yield
    finally:
        ray.shutdown()


def check_cluster_reachable(address: str) -> None:
    """Raise ConfigError at once if no server answers at a Ray cluster's address. Ray itself would wait
    for minutes.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return  # auto, local, or what Ray rejects by itself
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise ConfigError(
            f"nothing answers there: {error}", key="hydra.launcher.address", value=address, code="unreachable"
        ) from error


@contextmanager
def write_shared_folder_test_file(output_dir: Path) -> Iterator[SharedFile]:
    """Write a file by which Ray nodes detect whether they share the grid's output folder."""
    file = output_dir.expanduser().absolute() / f".shared-{uuid.uuid4().hex}"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(file, file.name)
    try:
        yield SharedFile(str(file), file.name)
    finally:
        file.unlink(missing_ok=True)

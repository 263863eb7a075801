"""Records which process runs a trial, by a file lock that the system releases when the process ends."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from runner_base import lock_file
from runner_base.files import is_locked

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

RUNNING = ".running"  # ends the name of a process's lock
OWNER = "runs_in"  # an attribute of a trial: the process that runs it


@contextmanager
def hold_trial_owner_lock(folder: Path) -> Iterator[dict[str, str]]:
    """Hold a file lock while this process runs. Without the lock, other processes consider its trials
    abandoned.
    """
    lock = folder / f"{uuid.uuid4().hex}{RUNNING}"
    with ExitStack() as held:
        with lock_file(
            folder / ".lock"
        ):  # no other process takes a lock that is being made for one without a process
            held.enter_context(lock_file(lock))
            for left in folder.glob(f"*{RUNNING}"):
                if left != lock and not is_locked(left):
                    left.unlink(missing_ok=True)
        yield {"host": platform.node(), "lock": str(lock)}
    with suppress(OSError):
        lock.unlink()


def is_trial_abandoned(trial: FrozenTrial, trial_owner: dict[str, str]) -> bool:
    """Return whether an unfinished trial was abandoned: its process has ended. False for processes of
    other machines.
    """
    runs_in = trial.user_attrs.get(OWNER)
    if runs_in is None:
        return True  # its process ended before it could run it
    if runs_in == trial_owner:
        return False
    if runs_in["host"] != trial_owner["host"]:
        return False
    return not is_locked(Path(runs_in["lock"]))

"""Which process runs a trial: each has a lock that ends with it."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from runner_base import hold
from runner_base.files import is_held

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

RUNNING = ".running"  # ends the name of a process's lock
OWNER = "runs_in"  # an attribute of a trial: the process that runs it


@contextmanager
def owned(folder: Path) -> Iterator[dict[str, str]]:
    """Give this process a lock that ends with it, so that others can tell whether its trials still
    run."""
    lock = folder / f"{uuid.uuid4().hex}{RUNNING}"
    with ExitStack() as held:
        with hold(
            folder / ".lock"
        ):  # no other process takes a lock that is being made for one without a process
            held.enter_context(hold(lock))
            for left in folder.glob(f"*{RUNNING}"):
                if left != lock and not is_held(left):
                    left.unlink(missing_ok=True)
        yield {"host": platform.node(), "lock": str(lock)}
    with suppress(OSError):
        lock.unlink()


def is_abandoned(trial: FrozenTrial, owner: dict[str, str]) -> bool:
    """Whether no process runs a trial that has not ended; of another machine's process that is not
    known."""
    runs_in = trial.user_attrs.get(OWNER)
    if runs_in is None:
        return True  # its process ended before it could run it
    if runs_in == owner:
        return False
    if runs_in["host"] != owner["host"]:
        return False
    return not is_held(Path(runs_in["lock"]))

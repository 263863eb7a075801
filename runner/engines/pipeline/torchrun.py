"""A pipeline whose processes torchrun has started: the first one does the job, the others serve it and stay silent."""

from __future__ import annotations

import atexit
import os
import signal
import time
from contextlib import suppress

from runner.config.root import RunnerConfig
from runner.engines.pipeline.processes import Crew, Meeting, serve
from runner.engines.pipeline.stage_worker import Place

_told_at: list[float] = []
_met: list[Crew] = []  # of the first process: those that torchrun has started beside it


def joins(config: RunnerConfig) -> int | None:
    """Serve the first process and return the exit code; None in that one, which goes on with its job."""
    from torch.distributed.rendezvous import rendezvous

    store, rank, processes = next(rendezvous("env://"))
    local = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    place, meeting = Place(rank, processes, *local), Meeting(store)
    if rank == 0:
        _met.append(Crew(config, place, meeting))
        signal.signal(signal.SIGTERM, _told_to_end)
        atexit.register(_over, meeting)  # also when the job is done already, or cannot begin
        return None
    for wish in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wish, signal.SIG_DFL)  # at once: waiting for a message, Python would not hear of it
    try:
        return serve(config, place, meeting)
    except RuntimeError:  # the store went away with the first process: it was over before it began
        return 1


def _told_to_end(*_: object) -> None:
    """Remember when: torchrun sends SIGTERM to all when one has died, and passes Ctrl-C on as SIGINT."""
    _told_at.append(time.monotonic())
    signal.raise_signal(signal.SIGINT)


def told_at() -> float | None:
    """When torchrun has told this process to end, None when it has not."""
    return _told_at[0] if _told_at else None


def crew() -> Crew | None:
    """Return the processes that torchrun has started, None where it has not."""
    return _met[-1] if _met else None


def _over(meeting: Meeting) -> None:
    with suppress(RuntimeError):  # whoever held the store may be gone
        meeting.say("over")

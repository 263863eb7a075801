"""A pipeline whose processes torchrun has started: the first one does the job, the others run stages in silence."""

from __future__ import annotations

import atexit
import os
import signal
import time
from contextlib import suppress

from runner.config.root import RunnerConfig
from runner.engines.pipeline.processes import PeerProcesses, Rendezvous, run_stages
from runner.engines.pipeline.stage_worker import ProcessRank

terminated_at: float | None = None  # when torchrun has told this process to end
peers: PeerProcesses | None = None  # of the first process: those that torchrun has started beside it


def joins(config: RunnerConfig) -> int | None:
    """Run this process's stages and return the exit code; None in the first process, which goes on with its job."""
    global peers
    from torch.distributed.rendezvous import rendezvous as meet

    store, number, processes = next(meet("env://"))
    local = int(os.environ.get("LOCAL_RANK", number)), int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    rank, rendezvous = ProcessRank(number, processes, *local), Rendezvous(store)
    if number == 0:
        peers = PeerProcesses(config, rank, rendezvous)
        signal.signal(signal.SIGTERM, _on_terminate)
        atexit.register(_end_pipeline, rendezvous)  # also when the job is done already, or cannot begin
        return None
    for wish in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wish, signal.SIG_DFL)  # Python's own handler would wait until a packet has come
    try:
        return run_stages(config, rank, rendezvous)
    except RuntimeError:  # the store went away with the first process: the job was over before it began
        return 1


def _on_terminate(*_: object) -> None:
    """Remember when: torchrun sends SIGTERM to all when one has died, and passes Ctrl-C on as SIGINT."""
    global terminated_at
    terminated_at = terminated_at or time.monotonic()
    signal.raise_signal(signal.SIGINT)


def _end_pipeline(rendezvous: Rendezvous) -> None:
    with suppress(RuntimeError):  # the process that held the store may be gone
        rendezvous.post("over")

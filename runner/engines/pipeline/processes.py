"""The processes of a pipeline: started here or by torchrun, how they meet, and what is said when one is gone.

They meet at torch's TCP store. There each one says what it loaded, or why it failed; the ring itself only carries
steps. The first process watches the others: one that is killed or fails ends the whole, and the message names it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from runner.config.root import RunnerConfig
from runner.config.task import PipelineConfig
from runner.core import child, errors
from runner.core.errors import JobFailed, RunnerError
from runner.engines.pipeline.stage_worker import Member, Place, direct, manifest_of
from runner.engines.pipeline.transport import Kind, PeerGone, Ring
from runner.sharding.placement import parts_of

START = "runner.engines.pipeline.stage_process"
POLL_S = 0.1
CULPRIT_S = 3.0  # how long to look for the one that failed first, when its neighbours have noticed
LEAVE_S = 10.0  # for a process that has nothing left to do, to be gone
KEPT = "All other processes were ended; completions so far are kept, the same command goes on from them"
log = logging.getLogger(__name__)


class Meeting:
    """What the processes tell each other besides the ring."""

    def __init__(self, store: Any) -> None:
        self.store = PrefixStore("runner-pipeline", store)

    def say(self, key: str, value: Any = None) -> None:
        """Leave a word for the others."""
        self.store.set(key, json.dumps(value))

    def hear(self, key: str) -> Any:
        """Return what was said, None while nothing was."""
        return json.loads(self.store.get(key)) if self.store.check([key]) else None

    def wait(self, key: str, timeout_s: float | None = None) -> bool:
        """Wait for a word; False when it is all over without it, or too late."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.store.check([key]):
            if self.store.check(["over"]) or (deadline is not None and time.monotonic() > deadline):
                return False
            time.sleep(POLL_S / 2)
        return True


def meet(port: int) -> Meeting:
    """Join the processes that the parent has started."""
    return Meeting(TCPStore("127.0.0.1", port, None, is_master=False))


def open_ring(config: RunnerConfig, place: Place, meeting: Meeting, device: torch.device) -> Ring:
    """Connect with the two neighbours; every process has to come."""
    assert isinstance(config.task, PipelineConfig)
    straight = direct(config, place)
    if straight:
        torch.cuda.set_device(device)
    with temporarily(loopback(place)):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if straight else "gloo",
            store=PrefixStore("ring", meeting.store),
            rank=place.rank,
            world_size=place.processes,
            # the first process counts the seconds; where it cannot, the others end themselves a while later
            timeout=timedelta(seconds=60 + 2 * config.task.timeout_s),
        )
    return Ring(place.rank, place.processes, device, straight)


# --------------------------------------------------------------------------------------- one of the others


def serve(config: RunnerConfig, place: Place, meeting: Meeting) -> int:
    """Run this process's parts until the first process says that it is over; return the exit code."""
    try:
        _serve(config, place, meeting)
    except PeerGone as error:
        word: tuple[str, Any] = f"lost/{place.rank}", error.rank
    except Exception as error:  # the first process says it, whatever it is
        log.debug("failed", exc_info=True)
        word = f"error/{place.rank}", [type(error).__name__, str(error)]
    else:
        return 0
    with suppress(RuntimeError):  # the first process may be gone, and its store with it
        meeting.say(*word)
        meeting.wait("over", LEAVE_S)  # an exit now could end the first process before it has heard
    return 1


def _serve(config: RunnerConfig, place: Place, meeting: Meeting) -> None:
    if not meeting.wait("begin"):
        return  # the job was done already
    member = Member(config, place)
    meeting.say(f"loaded/{place.rank}", [member.report(), member.notes])
    if not meeting.wait("go"):
        return
    ring = open_ring(config, place, meeting, member.device)
    while (message := ring.receive()).kind is not Kind.stop:
        answer = member.run(message)
        if answer is not None:
            ring.send(answer)
    meeting.say(f"figures/{place.rank}", member.figures())
    ring.send(message)
    ring.flush()
    dist.destroy_process_group()


# ------------------------------------------------------------------------------------------ the first one


@dataclass
class Crew:
    """The other processes, as the first one sees them."""

    config: RunnerConfig
    place: Place
    meeting: Meeting
    children: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)  # none of them with torchrun
    logs: dict[int, Path] = field(default_factory=dict)

    @property
    def others(self) -> range:
        """The ranks of the others."""
        return range(1, self.place.processes)

    def gather(self, what: str) -> list[Any]:
        """Wait until each of the others has said something, and return it in their order."""
        while not all(self.meeting.store.check([f"{what}/{rank}"]) for rank in self.others):
            self.watch()
            time.sleep(POLL_S / 2)
        return [self.meeting.hear(f"{what}/{rank}") for rank in self.others]

    def watch(self) -> None:
        """Raise what has gone wrong, if anything has."""
        noticed = any(process.poll() is not None for process in self.children.values())
        noticed |= any(
            self.meeting.store.check([f"{word}/{rank}"]) for word in ("error", "lost") for rank in self.others
        )
        if noticed:
            raise self.explain(None)

    def explain(self, gone: PeerGone | None) -> RunnerError:
        """Return the error that names who failed first; neighbours notice a death, and are not its cause."""
        deadline = time.monotonic() + CULPRIT_S
        while (found := self._culprit()) is None and time.monotonic() < deadline:
            time.sleep(POLL_S / 2)
        if found is not None:
            return found
        lost = {rank: self.meeting.hear(f"lost/{rank}") for rank in self.others}
        noticed = {at for at in lost.values() if at} | ({gone.rank} if gone else set())
        silent = sorted(noticed - {rank for rank, at in lost.items() if at is not None}) or sorted(noticed)
        who = " and ".join(self.name(rank) for rank in silent) or "a process"
        return JobFailed(f"{who} ended without a word, which is what a kill looks like. {KEPT}")

    def _culprit(self) -> RunnerError | None:
        for rank in self.others:
            said = self.meeting.hear(f"error/{rank}")
            if said is not None:
                kind, message = said
                known = getattr(errors, kind, None)
                if isinstance(known, type) and issubclass(known, RunnerError):
                    return known(f"{self.name(rank)}: {message}")
                return JobFailed(f"{self.name(rank)} failed: {kind}: {message}. {KEPT}")
        codes = {rank: code for rank, process in self.children.items() if (code := process.poll()) is not None}
        for rank, code in sorted(codes.items(), key=lambda item: item[1] >= 0):  # those killed by a signal first
            if code < 0 or self.meeting.hear(f"lost/{rank}") is None:
                last = "".join(f"\n    | {line}" for line in child.last_lines(self.logs[rank], 5))
                return JobFailed(f"{self.name(rank)} {child.describe_exit(code)}. {KEPT}{last}")
        return None

    def name(self, rank: int) -> str:
        """Name a process by what it runs."""
        count = self.place.processes
        return f"process {rank} of {count} ({parts_of(manifest_of(self.config), count, rank)})"

    def dismiss(self) -> None:
        """See the others off when all is done."""
        deadline = time.monotonic() + LEAVE_S
        for process in self.children.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """End what was started here, at once."""
        for process in self.children.values():
            process.kill()
        for process in self.children.values():
            process.wait()
        for path in self.logs.values():
            if path.exists() and not path.stat().st_size:
                path.unlink()


def spawn(config: RunnerConfig, processes: int, folder: Path) -> Crew:
    """Start the other processes on this machine; they end with this one."""
    store = TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)  # 0: a port that is free
    crew = Crew(config, Place(0, processes, 0, processes), Meeting(store))
    try:
        for rank in crew.others:
            crew.logs[rank] = folder / f"process_{rank}.log"
            place = Place(rank, processes, rank, processes)
            with crew.logs[rank].open("wb") as output:
                crew.children[rank] = child.start(
                    *("-m", START),
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C of the terminal is for this process, which ends the others
                )
            child.send_input(crew.children[rank], (config, place, store.port, os.getpid()))
    except BaseException:
        crew.kill()
        raise
    return crew


def loopback(place: Place) -> dict[str, str]:
    """Keep gloo on this machine where all processes are: by itself it listens where the host's name leads."""
    if place.local_processes < place.processes or "GLOO_SOCKET_IFNAME" in os.environ:
        return {}
    there = {name for _, name in socket.if_nameindex()}
    return next(({"GLOO_SOCKET_IFNAME": name} for name in ("lo", "lo0") if name in there), {})


@contextmanager
def temporarily(values: dict[str, str]) -> Iterator[None]:
    """Set variables for a moment."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value

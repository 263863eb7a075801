"""Starts and connects the processes of a pipeline, and determines which process failed first.

Processes exchange messages in torch's TCP store: what they loaded, or why they failed. The
ring carries only steps. The first process watches the others. When one is killed or fails,
the pipeline ends with an error that names it.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from runner.config.root import RunnerConfig
from runner.options.parts.model_keys import as_parts_config
from runner.options.parts.pipeline.machines import (
    HeartbeatServer,
    exit_if_first_process_unreachable,
    format_unreachable_message,
    print_remote_error,
    set_gloo_network_interface,
)
from runner.options.parts.pipeline.ranks import ProcessRank, load_manifest
from runner.options.parts.pipeline.stage_worker import StageWorker
from runner.options.parts.pipeline.transport import PacketType, PeerDisconnected, Transport
from runner.options.parts.sharding.strategies import describe_assigned_parts
from runner_base import JobFailed, RunnerError, child_process, errors, signals

STAGE_PROCESS = "runner.options.parts.pipeline.stage_process"
LOOPBACK = "127.0.0.1"
POLL_S = 0.1
CAUSE_S = 3.0  # how long to look for the process that failed first, after a neighbour has noticed
EXIT_S = 10.0  # time for a process without work to exit
KEPT = "All other processes were ended. Completed answers are saved. Run the same command to resume"
log = logging.getLogger(__name__)
terminated_at: float | None = None  # when torchrun sent SIGTERM to this process
torchrun_peers: PeerProcesses | None = None  # in the first process: the others that torchrun has started


class MessageStore:
    """Key-value store (torch's TCPStore) through which the pipeline's processes exchange messages outside
    their ring.
    """

    def __init__(self, store: Any) -> None:
        self.store = PrefixStore("runner-pipeline", store)

    def post(self, key: str, value: Any = None) -> None:
        self.store.set(key, json.dumps(value))

    def has_message(self, key: str) -> bool:
        return bool(self.store.check([key]))

    def read(self, key: str) -> Any:
        return json.loads(self.store.get(key)) if self.has_message(key) else None

    def wait_for_message(self, key: str, timeout_s: float | None = None) -> bool:
        """Wait until a message is posted. Returns False after the timeout, or if the pipeline ends first."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.has_message(key):
            if self.has_message("over") or (deadline is not None and time.monotonic() > deadline):
                return False
            time.sleep(POLL_S / 2)
        return True


def open_local_store() -> TCPStore:
    """Open the TCPStore of a pipeline on a single machine. Only processes on this machine can connect."""
    # without a socket of ours, the store listens on every interface, whatever the host name
    listening = socket.create_server((LOOPBACK, 0))
    port = listening.getsockname()[1]
    return TCPStore(
        LOOPBACK, port, None, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )


def connect_message_store(port: int) -> MessageStore:
    """Connect to the message store that the parent process has opened."""
    return MessageStore(TCPStore(LOOPBACK, port, None, is_master=False))


def connect_to_ring_neighbours(worker: StageWorker, message_store: MessageStore) -> Transport:
    """Connect this process to its two neighbours in the ring, and wait until all processes are connected."""
    rank, gpu_to_gpu = worker.rank, worker.gpu_to_gpu
    if gpu_to_gpu:
        torch.cuda.set_device(worker.device)
    with set_gloo_network_interface(rank):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu_to_gpu else "gloo",
            store=PrefixStore("ring", message_store.store),
            rank=rank.rank,
            world_size=rank.processes,
            # the first process checks model.timeout_s; if it cannot, the others end themselves
            # later
            timeout=timedelta(seconds=60 + 2 * as_parts_config(worker.config.model).timeout_s),
        )
    return Transport(rank.rank, rank.processes, worker.device, gpu_to_gpu)


# ----------------------------------------------------------------------------------------- the
# other processes


def run_parts_until_pipeline_end(config: RunnerConfig, rank: ProcessRank, message_store: MessageStore) -> int:
    """Run this process's parts until the first process ends the pipeline. Returns the exit code."""
    try:
        _run_pipeline_stages(config, rank, message_store)
    except PeerDisconnected as error:
        message: tuple[str, Any] = f"lost/{rank.rank}", error.rank
        print_remote_error(rank, f"process {error.rank} closed its connection")
    except Exception as error:  # whatever it is, the first process reports it
        log.debug("failed", exc_info=True)
        code = error.code if isinstance(error, RunnerError) else None
        message = f"error/{rank.rank}", [type(error).__name__, str(error), code]
    else:
        return 0
    with suppress(RuntimeError):  # the first process may have ended, and its store with it
        message_store.post(*message)
        # an earlier exit could end the first process before it has read the message
        message_store.wait_for_message("over", EXIT_S)
    return 1


def _run_pipeline_stages(config: RunnerConfig, rank: ProcessRank, message_store: MessageStore) -> None:
    if not message_store.wait_for_message("begin"):
        return  # the job was done already
    worker = StageWorker(config, rank)
    message_store.post(f"loaded/{rank.rank}", [worker.describe_parts(), [asdict(it) for it in worker.notes]])
    if not message_store.wait_for_message("go"):
        return
    transport = connect_to_ring_neighbours(worker, message_store)
    while (packet := transport.receive()).kind is not PacketType.stop:
        if packet.kind is PacketType.figures:
            message_store.post(f"figures/{rank.rank}", worker.collect_process_metrics())
            transport.send(packet)
        elif packet.kind is PacketType.alive:
            transport.send(packet)
        elif (answer := worker.run_step(packet)) is not None:
            transport.send(answer)
    transport.send(packet)
    transport.flush()
    dist.destroy_process_group()


# ------------------------------------------------------------------------------------------- the
# first process


@dataclass
class PeerProcesses:
    """Manages the other processes of a pipeline. Only the first process has this object."""

    config: RunnerConfig
    rank: ProcessRank  # of the first process
    rendezvous: MessageStore
    # by rank; empty under torchrun
    children: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    logs: dict[int, Path] = field(default_factory=dict)
    elsewhere: HeartbeatServer | None = None

    @property
    def ranks(self) -> range:
        return range(1, self.rank.processes)

    def gather_messages(self, key: str) -> list[Any]:
        """Wait until every other process has posted a message with this key. Returns the messages by rank."""
        while not all(self.rendezvous.has_message(f"{key}/{rank}") for rank in self.ranks):
            self.check_alive()
            time.sleep(POLL_S / 2)
        return [self.rendezvous.read(f"{key}/{rank}") for rank in self.ranks]

    def check_alive(self) -> None:
        """Raise an error if another process has failed, preferably the error that the process itself
        reported.
        """
        failed = any(process.poll() is not None for process in self.children.values())
        failed |= any(
            self.rendezvous.has_message(f"{kind}/{rank}") for kind in ("error", "lost") for rank in self.ranks
        )
        failed |= self.elsewhere is not None and bool(self.elsewhere.silent)
        if failed:
            raise self.find_first_failure(None)

    def find_first_failure(self, peer_error: PeerDisconnected | None) -> RunnerError:
        deadline = time.monotonic() + CAUSE_S
        while (
            cause := self._read_posted_error() or self._find_exit_error()
        ) is None and time.monotonic() < deadline:
            time.sleep(POLL_S / 2)
        if cause is not None:
            return cause
        if self.elsewhere is not None and self.elsewhere.silent:
            unreachable = map(self.describe_pipeline_process, sorted(self.elsewhere.silent))
            return JobFailed(
                f"{format_unreachable_message(' and '.join(unreachable))}. {KEPT}", code="failed"
            )
        lost = {rank: self.rendezvous.read(f"lost/{rank}") for rank in self.ranks}
        missed = {neighbour for neighbour in lost.values() if neighbour} | (
            {peer_error.rank} if peer_error else set()
        )
        silent = sorted(
            missed - {rank for rank, neighbour in lost.items() if neighbour is not None}
        ) or sorted(missed)
        names = " and ".join(self.describe_pipeline_process(rank) for rank in silent) or "a process"
        why = f"{names} ended without an error message. The system probably killed them. {KEPT}"
        return JobFailed(why, code="failed")

    def _read_posted_error(self) -> RunnerError | None:
        for rank in self.ranks:
            if (posted := self.rendezvous.read(f"error/{rank}")) is not None:
                kind, message, code = posted
                known = getattr(errors, kind, None)
                if isinstance(known, type) and issubclass(known, RunnerError):
                    return known(f"{self.describe_pipeline_process(rank)}: {message}", code=code)
                return JobFailed(
                    f"{self.describe_pipeline_process(rank)} failed: {kind}: {message}. {KEPT}", code="failed"
                )
        return None

    def _find_exit_error(self) -> RunnerError | None:
        """Return an error for a child process that ended without reporting an error, or None."""
        codes = {
            rank: code for rank, process in self.children.items() if (code := process.poll()) is not None
        }
        for rank, code in sorted(
            codes.items(), key=lambda item: item[1] >= 0
        ):  # those killed by a signal first
            if code < 0 or self.rendezvous.read(f"lost/{rank}") is None:
                last = "".join(
                    f"\n    | {line}" for line in child_process.read_last_lines(self.logs[rank], 5)
                )
                return JobFailed(
                    f"{self.describe_pipeline_process(rank)} {child_process.describe_exit_code(code)}. {KEPT}{last}",
                    code="failed",
                )
        return None

    def describe_pipeline_process(self, rank: int) -> str:
        """Describe a process by its rank and parts, and by its address if it runs on another machine."""
        count, elsewhere = (self.rank.processes, {} if self.elsewhere is None else self.elsewhere.addresses)
        where = f" at {elsewhere[rank]}" if rank in elsewhere else ""
        return f"process {rank} of {count} ({describe_assigned_parts(load_manifest(self.config), count, rank)}){where}"

    def wait_or_kill_peer_processes(self) -> None:
        """Wait until all other processes have ended. Kills processes that take longer than 10 s."""
        deadline = time.monotonic() + EXIT_S
        for process in self.children.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """Kill the processes that this process has started."""
        for process in self.children.values():
            process.kill()
        for process in self.children.values():
            process.wait()
        for path in self.logs.values():
            if path.exists() and not path.stat().st_size:
                path.unlink()


def start_stage_processes(config: RunnerConfig, num_processes: int, folder: Path) -> PeerProcesses:
    """Start the pipeline's other processes on this machine. They end when this process ends."""
    store = open_local_store()
    peers = PeerProcesses(config, ProcessRank(0, num_processes, 0, num_processes), MessageStore(store))
    try:
        for rank in peers.ranks:
            peers.logs[rank] = folder / f"process_{rank}.log"
            with peers.logs[rank].open("wb") as output:
                # in its own session: the terminal's Ctrl-C is for this process, which ends the
                # others
                peers.children[rank] = child_process.start_python_child_process(
                    "-m",
                    STAGE_PROCESS,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            its_rank = ProcessRank(rank, num_processes, rank, num_processes)
            child_process.send_pickled_input(
                peers.children[rank], (config, its_rank, store.port, os.getpid())
            )
    except BaseException:
        peers.kill()
        raise
    return peers


# ----------------------------------------------------------------------------------------- torchrun


def run_torchrun_process(config: RunnerConfig, rank: ProcessRank) -> int | None:
    """Run this process's stages if torchrun started it. Returns the exit code, or None in the first
    process.
    """
    global torchrun_peers
    from torch.distributed.rendezvous import rendezvous as meet

    store, _, _ = next(meet("env://"))
    rendezvous = MessageStore(store)
    if rank.rank == 0:
        torchrun_peers = PeerProcesses(config, rank, rendezvous)
        if not rank.is_single_machine:
            torchrun_peers.elsewhere = others = HeartbeatServer(range(rank.local_processes, rank.processes))
            rendezvous.post("watch", [others.address, others.port, others.token])
        signal.signal(signal.SIGTERM, _handle_sigterm)
        # also if the job is done already or cannot begin
        atexit.register(_end_pipeline, rendezvous)
        return None
    for number in (signal.SIGINT, signal.SIGTERM):
        # Python's handler would not run before a packet arrives
        signal.signal(number, signal.SIG_DFL)
    try:
        if not rank.is_on_first_machine and rendezvous.wait_for_message("watch"):
            exit_if_first_process_unreachable(rank, *rendezvous.read("watch"))
        return run_parts_until_pipeline_end(config, rank, rendezvous)
    except RuntimeError:  # the store ended with the first process: the job was over before it began
        why = "the first process ended before the pipeline started"
        print_remote_error(rank, why)
        return 1


def _handle_sigterm(signal_number: int, frame: FrameType | None) -> None:
    """Record the arrival time of SIGTERM, which torchrun sends to all processes when one has died."""
    global terminated_at
    terminated_at = terminated_at or time.monotonic()
    signals.handle_signal(signal_number, frame)


def _end_pipeline(message_store: MessageStore) -> None:
    with suppress(RuntimeError):  # the process with the store may have ended
        message_store.post("over")

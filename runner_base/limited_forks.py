"""Fork server that answers each message in a separate fork with CPU and memory limits.

The server process is prepared once. The kernel ends a fork that exceeds a limit, and the next
message gets a new one. Each message has its own socket connection, so several are answered at once
and none waits for another.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from runner_base import MIB, child_process

LENGTH = struct.Struct("<Q")  # precedes the preparation, each message and each answer
CODE = struct.Struct("<q")  # of a fork that ended without an answer
NO_CODE = 2**64 - 1  # in place of a length: an exit code follows
NO_MEMORY = 3  # exit code of a fork
LOOK_S = 0.05  # how often a waiting caller checks whether its answer is still wanted
REAP_S = 0.02  # how often the process checks which forks have ended
NICENESS = 5  # forks give way to the process that asks


class ForkOutcome(StrEnum):
    """Outcome of a message to the fork server."""

    answered = "answered"
    too_long = "too_long"
    out_of_memory = "out_of_memory"
    too_busy = "too_busy"  # the time by the clock has passed, and not that of the processor
    died = "died"
    cancelled = "cancelled"


@dataclass(frozen=True)
class ForkLimits:
    """Limits on each fork (CPU, memory, time), on the number of forks, and on the server's idle
    time.
    """

    cpu_s: float
    memory_mib: int  # in addition to the memory of the prepared process
    wall_s: float
    at_once: int = 4
    idle_s: float = 60.0  # then the process ends; the next message starts another one


@dataclass
class _ServerProcess:
    """Running server process. A finalizer uses this object to end the process when the client is deleted."""

    process: subprocess.Popen[bytes] | None = None
    control: socket.socket | None = None
    under_way: int = 0
    used_at: float = 0.0
    timer: threading.Timer | None = None

    def stop_fork_server_process(self) -> None:
        process, control, timer = self.process, self.control, self.timer
        self.control = self.timer = None
        if timer is not None:
            timer.cancel()
        if control is not None:
            control.close()
        if process is not None:
            process.kill()
            process.wait()
        self.process = None  # only now: `pid` names a process until it has ended


class LimitedForks:
    """Client that starts a fork server and sends it messages. Thread-safe."""

    def __init__(self, server_file: str, limits: ForkLimits, preparation: bytes) -> None:
        """Create a client without starting the server. The first request starts it.

        server_file: a Python file that calls `run_fork_server`; preparation: the input of its `prepare`.
        """
        self._file, self._limits, self._preparation = server_file, limits, preparation
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(limits.at_once)
        self._shared = _ServerProcess()
        self._finalizer = weakref.finalize(self, self._shared.stop_fork_server_process)

    @property
    def pid(self) -> int | None:
        """The server's process id; None if it is not running."""
        process = self._shared.process
        return None if process is None else process.pid

    def stop_server(self) -> None:
        """End the server. The next message starts another one."""
        with self._lock:
            self._shared.stop_fork_server_process()

    def request(
        self, message: bytes, should_continue: Callable[[], bool] = lambda: True
    ) -> tuple[ForkOutcome, bytes]:
        """Send a message to the fork server and return the outcome and the reply.

        Returns early when `should_continue` returns False.
        """
        deadline = time.monotonic() + self._limits.wall_s
        while not self._room.acquire(timeout=LOOK_S):
            if not should_continue():
                return ForkOutcome.cancelled, b""
            if time.monotonic() > deadline:
                return ForkOutcome.too_busy, b""
        with self._lock:
            self._shared.under_way += 1
        try:
            for _ in range(2):  # a process that something else has ended is replaced once
                parent_end, child_end = socket.socketpair()
                with parent_end:
                    with child_end:
                        self._send_connection(child_end)
                    found = _send_and_receive(parent_end, message, deadline, should_continue)
                if found is not None:
                    return found
            return ForkOutcome.died, b""
        finally:
            with self._lock:
                self._shared.under_way -= 1
                self._shared.used_at = time.monotonic()
                if self._shared.timer is None and self._shared.process is not None:
                    self._schedule_idle_server_stop()
            self._room.release()

    def _send_connection(self, connection: socket.socket) -> None:
        """Send a socket to the server. Starts the server if it is not running."""
        with self._lock:
            for _ in range(2):  # it may have ended since the last message
                if self._shared.process is None or self._shared.process.poll() is not None:
                    self._start_server()
                control = self._shared.control
                assert control is not None
                try:
                    socket.send_fds(control, [b"m"], [connection.fileno()])
                    return
                except OSError:
                    self._shared.stop_fork_server_process()

    def _start_server(self) -> None:
        self._shared.stop_fork_server_process()
        parent_end, child_end = socket.socketpair()
        limits = (self._limits.cpu_s, self._limits.memory_mib)
        with child_end:
            self._shared.process = child_process.start_python_child_process(
                "-S",
                "-B",
                "-X",
                "utf8",
                self._file,
                *map(str, limits),
                stdin=child_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                should_inherit_secrets=False,
            )
        self._shared.control = parent_end
        with suppress(OSError):  # it has ended: the caller sees that on its own connection
            parent_end.sendall(LENGTH.pack(len(self._preparation)) + self._preparation)

    def _schedule_idle_server_stop(self) -> None:
        """End the server after its idle time. The caller holds the lock."""
        timer = threading.Timer(self._limits.idle_s, _stop_idle_fork_server, (weakref.ref(self),))
        timer.daemon, self._shared.timer = True, timer
        timer.start()


def _stop_idle_fork_server(owner_ref: weakref.ref[LimitedForks]) -> None:
    asking = owner_ref()
    if asking is None:
        return
    with asking._lock:
        shared = asking._shared
        shared.timer = None
        if shared.process is None:
            return
        is_idle = time.monotonic() - shared.used_at >= asking._limits.idle_s
        if is_idle and not shared.under_way:
            shared.stop_fork_server_process()
        else:
            asking._schedule_idle_server_stop()


def _send_and_receive(
    connection: socket.socket, message: bytes, deadline: float, should_continue: Callable[[], bool]
) -> tuple[ForkOutcome, bytes] | None:
    """Send a message and return the reply, or None if the server ended.

    Closing the connection ends the fork.
    """
    to_send, received = memoryview(LENGTH.pack(len(message)) + message), bytearray()
    connection.setblocking(False)
    poll = select.poll()
    while True:
        if not should_continue():
            return ForkOutcome.cancelled, b""
        if time.monotonic() > deadline:
            return ForkOutcome.too_busy, b""
        poll.register(connection, select.POLLIN | (select.POLLOUT if to_send else 0))
        if not poll.poll(1000 * LOOK_S):
            continue
        with suppress(BlockingIOError):
            if to_send:
                with suppress(BrokenPipeError):
                    to_send = to_send[connection.send(to_send) :]
        try:
            piece = connection.recv(1 << 16)
        except BlockingIOError:
            continue
        except ConnectionError:
            piece = b""
        received += piece
        if (found := _parse_reply(received)) is not None:
            return found
        if not piece:
            return None


def _parse_reply(received: bytearray) -> tuple[ForkOutcome, bytes] | None:
    """Parse the received bytes, or return None while they are incomplete."""
    if len(received) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack_from(received)
    body = bytes(received[LENGTH.size :])
    if length != NO_CODE:
        return (ForkOutcome.answered, body) if len(body) == length else None
    if len(body) < CODE.size:
        return None
    (code,) = CODE.unpack(body)
    if code == -signal.SIGPROF:
        return ForkOutcome.too_long, b""
    # a library that gets no memory, or whose stack overflows, aborts
    is_memory = code in (NO_MEMORY, -signal.SIGABRT, -signal.SIGSEGV)
    return (ForkOutcome.out_of_memory if is_memory else ForkOutcome.died), b""


# ---------------------------------------------------------------------------- in the process


def run_fork_server(create_message_handler: Callable[[bytes], Callable[[bytes], bytes]]) -> None:
    """Create the message handler once, then answer each message in a fork until the client exits."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # they are for the process that asks
    control, forks = socket.socket(fileno=0), dict[int, socket.socket]()
    with control.makefile("rb", buffering=0) as stream:
        answer = create_message_handler(_read_message(stream.read))
    while True:
        _kill_disconnected_forks(forks)
        _reap_forks(forks)
        readable, _, _ = select.select([control], [], [], REAP_S if forks else None)
        if not readable:
            continue
        mark, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not mark:
            break
        connection = socket.socket(fileno=descriptors[0])
        pid = os.fork()
        if not pid:
            for other in (control, *forks.values()):
                other.close()
            _answer_in_fork(connection, answer)
        forks[pid] = connection
    for pid in forks:
        os.kill(pid, signal.SIGKILL)


def _read_message(read_bytes: Callable[[int], bytes | None]) -> bytes:
    def read_all(count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = read_bytes(min(count - len(data), 1 << 20))
            if not piece:
                os._exit(0)
            data += piece
        return bytes(data)

    return read_all(*LENGTH.unpack(read_all(LENGTH.size)))


def _answer_in_fork(connection: socket.socket, handle_message: Callable[[bytes], bytes]) -> None:
    """Answer one message under the resource limits, then exit this forked process."""
    code = 1
    try:
        _apply_cpu_and_memory_limits()
        reply = handle_message(_read_message(connection.recv))
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.sendall(LENGTH.pack(len(reply)) + reply)
        code = 0
    except MemoryError:
        code = NO_MEMORY
    finally:
        os._exit(code)


def _apply_cpu_and_memory_limits() -> None:
    cpu_s, memory_mib = float(sys.argv[1]), int(sys.argv[2])
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # not all systems have this limit, or tell their size
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        most = size + memory_mib * MIB
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.setitimer(signal.ITIMER_PROF, cpu_s)  # its signal ends the fork, also in a call into C


def _kill_disconnected_forks(forks: dict[int, socket.socket]) -> None:
    """Kill the forks whose client has closed the connection."""
    poll, of_descriptor = select.poll(), {}
    for pid, connection in forks.items():
        poll.register(connection, 0)  # only hang-ups
        of_descriptor[connection.fileno()] = pid
    for descriptor, _ in poll.poll(0) if forks else ():
        with suppress(ProcessLookupError):
            os.kill(of_descriptor[descriptor], signal.SIGKILL)


def _reap_forks(forks: dict[int, socket.socket]) -> None:
    """Reap forks that have ended, and send their exit codes to the waiting clients."""
    for pid in list(forks):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            with suppress(OSError), forks.pop(pid) as connection:
                code = os.waitstatus_to_exitcode(status)
                if code:
                    connection.sendall(LENGTH.pack(NO_CODE) + CODE.pack(code))

"""A process that prepares once and answers each message in a fork of itself, within limits of CPU
time and memory. The kernel ends a fork that exceeds a limit, and the next message gets a new one.

The two sides talk over sockets: one passes the descriptor of a new connection for each message, so
several messages are answered at once and no answer waits for another.
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

from runner_base import MIB, child

LENGTH = struct.Struct("<Q")  # precedes the preparation, each message and each answer
CODE = struct.Struct("<q")  # of a fork that ended without an answer
NO_CODE = 2**64 - 1  # in place of a length: an exit code follows
NO_MEMORY = 3  # exit code of a fork
LOOK_S = 0.05  # how often a waiting caller checks whether its answer is still wanted
REAP_S = 0.02  # how often the process checks which forks have ended
NICENESS = 5  # forks give way to the process that asks


class Outcome(StrEnum):
    """How a message ended."""

    answered = "answered"
    too_long = "too_long"
    out_of_memory = "out_of_memory"
    too_busy = "too_busy"  # the time by the clock has passed, and not that of the processor
    died = "died"
    cancelled = "cancelled"


@dataclass(frozen=True)
class ForkLimits:
    """Limits of one fork, of the forks at once, and of the idle process."""

    cpu_s: float
    memory_mib: int  # in addition to the memory of the prepared process
    wall_s: float
    at_once: int = 4
    idle_s: float = 60.0  # then the process ends; the next message starts another one


@dataclass
class _Shared:
    """The running process; the object that ends it must not keep its owner alive."""

    process: subprocess.Popen[bytes] | None = None
    control: socket.socket | None = None
    under_way: int = 0
    used_at: float = 0.0
    timer: threading.Timer | None = None

    def end(self) -> None:
        """End the process and its forks."""
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
    """Asks such a process; any thread may ask."""

    def __init__(self, file: str, limits: ForkLimits, preparation: bytes) -> None:
        """file: a Python file that calls `serve`; preparation: what its `prepare` gets."""
        self._file, self._limits, self._preparation = file, limits, preparation
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(limits.at_once)
        self._shared = _Shared()
        self._finalizer = weakref.finalize(self, self._shared.end)

    @property
    def pid(self) -> int | None:
        """The process's id; None if none is running."""
        process = self._shared.process
        return None if process is None else process.pid

    def end(self) -> None:
        """End the process; the next message starts another one."""
        with self._lock:
            self._shared.end()

    def ask(self, message: bytes, is_wanted: Callable[[], bool] = lambda: True) -> tuple[Outcome, bytes]:
        """Return the outcome and the answer; a caller that no longer wants it returns early."""
        deadline = time.monotonic() + self._limits.wall_s
        while not self._room.acquire(timeout=LOOK_S):
            if not is_wanted():
                return Outcome.cancelled, b""
            if time.monotonic() > deadline:
                return Outcome.too_busy, b""
        with self._lock:
            self._shared.under_way += 1
        try:
            for _ in range(2):  # a process that something else has ended is replaced once
                parent_end, child_end = socket.socketpair()
                with parent_end:
                    with child_end:
                        self._pass(child_end)
                    found = _exchange(parent_end, message, deadline, is_wanted)
                if found is not None:
                    return found
            return Outcome.died, b""
        finally:
            with self._lock:
                self._shared.under_way -= 1
                self._shared.used_at = time.monotonic()
                if self._shared.timer is None and self._shared.process is not None:
                    self._end_later()
            self._room.release()

    def _pass(self, connection: socket.socket) -> None:
        """Pass a connection to the process, which is started where none runs."""
        with self._lock:
            for _ in range(2):  # it may have ended since the last message
                if self._shared.process is None or self._shared.process.poll() is not None:
                    self._start()
                control = self._shared.control
                assert control is not None
                try:
                    socket.send_fds(control, [b"m"], [connection.fileno()])
                    return
                except OSError:
                    self._shared.end()

    def _start(self) -> None:
        self._shared.end()
        parent_end, child_end = socket.socketpair()
        limits = (self._limits.cpu_s, self._limits.memory_mib)
        with child_end:
            self._shared.process = child.start(
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
                is_trusted=False,
            )
        self._shared.control = parent_end
        with suppress(OSError):  # it has ended: the caller sees that on its own connection
            parent_end.sendall(LENGTH.pack(len(self._preparation)) + self._preparation)

    def _end_later(self) -> None:
        """End the process once it has been idle; the lock is held."""
        timer = threading.Timer(self._limits.idle_s, _end_if_idle, (weakref.ref(self),))
        timer.daemon, self._shared.timer = True, timer
        timer.start()


def _end_if_idle(reference: weakref.ref[LimitedForks]) -> None:
    asking = reference()
    if asking is None:
        return
    with asking._lock:
        shared = asking._shared
        shared.timer = None
        if shared.process is None:
            return
        is_idle = time.monotonic() - shared.used_at >= asking._limits.idle_s
        if is_idle and not shared.under_way:
            shared.end()
        else:
            asking._end_later()


def _exchange(
    connection: socket.socket, message: bytes, deadline: float, is_wanted: Callable[[], bool]
) -> tuple[Outcome, bytes] | None:
    """Send a message and return what comes back, or None if the process has ended; closing the
    connection ends the fork."""
    to_send, received = memoryview(LENGTH.pack(len(message)) + message), bytearray()
    connection.setblocking(False)
    poll = select.poll()
    while True:
        if not is_wanted():
            return Outcome.cancelled, b""
        if time.monotonic() > deadline:
            return Outcome.too_busy, b""
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
        if (found := _read(received)) is not None:
            return found
        if not piece:
            return None


def _read(received: bytearray) -> tuple[Outcome, bytes] | None:
    """Return what has been received, once it is complete."""
    if len(received) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack_from(received)
    body = bytes(received[LENGTH.size :])
    if length != NO_CODE:
        return (Outcome.answered, body) if len(body) == length else None
    if len(body) < CODE.size:
        return None
    (code,) = CODE.unpack(body)
    if code == -signal.SIGPROF:
        return Outcome.too_long, b""
    # a library that gets no memory, or whose stack overflows, aborts
    is_memory = code in (NO_MEMORY, -signal.SIGABRT, -signal.SIGSEGV)
    return (Outcome.out_of_memory if is_memory else Outcome.died), b""


# ---------------------------------------------------------------------------- in the process


def serve(prepare: Callable[[bytes], Callable[[bytes], bytes]]) -> None:
    """Prepare, and answer each message in a fork until the other side ends."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # they are for the process that asks
    control, forks = socket.socket(fileno=0), dict[int, socket.socket]()
    with control.makefile("rb", buffering=0) as stream:
        answer = prepare(_read_message(stream.read))
    while True:
        _end_unwanted(forks)
        _reap(forks)
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


def _read_message(read: Callable[[int], bytes | None]) -> bytes:
    def read_all(count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = read(min(count - len(data), 1 << 20))
            if not piece:
                os._exit(0)
            data += piece
        return bytes(data)

    return read_all(*LENGTH.unpack(read_all(LENGTH.size)))


def _answer_in_fork(connection: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    """Answer one message within the limits, and end."""
    code = 1
    try:
        _take_limits()
        reply = answer(_read_message(connection.recv))
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.sendall(LENGTH.pack(len(reply)) + reply)
        code = 0
    except MemoryError:
        code = NO_MEMORY
    finally:
        os._exit(code)


def _take_limits() -> None:
    cpu_s, memory_mib = float(sys.argv[1]), int(sys.argv[2])
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # not all systems have this limit, or tell their size
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        most = size + memory_mib * MIB
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.setitimer(signal.ITIMER_PROF, cpu_s)  # its signal ends the fork, also in a call into C


def _end_unwanted(forks: dict[int, socket.socket]) -> None:
    """Kill the forks whose connection the other side has closed."""
    poll, of_descriptor = select.poll(), {}
    for pid, connection in forks.items():
        poll.register(connection, 0)  # only hang-ups
        of_descriptor[connection.fileno()] = pid
    for descriptor, _ in poll.poll(0) if forks else ():
        with suppress(ProcessLookupError):
            os.kill(of_descriptor[descriptor], signal.SIGKILL)


def _reap(forks: dict[int, socket.socket]) -> None:
    """Collect the forks that have ended, and send their exit codes: callers with an answer ignore
    them."""
    for pid in list(forks):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            with suppress(OSError), forks.pop(pid) as connection:
                code = os.waitstatus_to_exitcode(status)
                if code:
                    connection.sendall(LENGTH.pack(NO_CODE) + CODE.pack(code))

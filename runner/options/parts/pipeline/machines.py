"""The machines of a pipeline: which network interface they use, and whether they are still there.

A machine that loses its power or its network closes no connection: a process would wait for it
until a time limit of many minutes. So each process on another machine than the first one keeps a
connection to the first process, on which both send a byte each second. Imports no torch.
"""

from __future__ import annotations

import logging
import os
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from fcntl import ioctl
from hmac import compare_digest

from runner.options.parts.pipeline.ranks import ProcessRank
from runner_base import say

BEAT_S = 1.0
SILENT_S = 20.0  # longer than a network takes to repair itself; within it TCP sends again what was lost
GET_INTERFACE_ADDRESS = 0x8915  # SIOCGIFADDR
TOKEN_BYTES = 16
HELLO = struct.Struct(f"!i{TOKEN_BYTES}s")  # the rank, and the token from the store
MAX_STRANGERS = 64  # connections that have not said who they are; a process says so as it connects
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
log = logging.getLogger(__name__)


def own_address() -> str:
    """Return the address under which the other machines reach this one: that of the way to
    torchrun's first machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))  # sends nothing
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """Return the network interface with an IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                answer = ioctl(asking, GET_INTERFACE_ADDRESS, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


@contextmanager
def ring_interface(rank: ProcessRank) -> Iterator[None]:
    """Let gloo use the interface that reaches the other processes; its default is the host name's
    address.

    That is the loopback interface if all are here, else the one on the way to torchrun's first
    machine.
    """
    if rank.is_one_machine:
        name = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    else:
        name = interface_of(own_address())
    if GLOO_INTERFACE in os.environ or name is None:
        yield
        return
    os.environ[GLOO_INTERFACE] = name
    try:
        yield
    finally:
        del os.environ[GLOO_INTERFACE]


class OtherMachines:
    """In the first process: the processes on other machines, and those of which nothing is heard
    any more.

    Anyone in the network can connect. A process is who says hello with the token that was posted in
    the store, and with a rank that is expected and not yet there. Nobody else gets a thread, and
    only a few others are kept open at a time.
    """

    def __init__(self, ranks: Collection[int]) -> None:
        self.addresses: dict[int, str] = {}  # by rank
        self.silent: set[int] = set()
        self.token = secrets.token_hex(TOKEN_BYTES)
        self._ranks = ranks
        self._hellos: dict[
            socket.socket, bytes
        ] = {}  # of connections that have not said all of it, oldest first
        self._listening = socket.create_server((own_address(), 0))
        self._listening.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self.address, self.port = self._listening.getsockname()[:2]
        threading.Thread(target=self._meet, daemon=True).start()

    def _meet(self) -> None:
        while True:
            for key, _ in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                try:
                    if sock is self._listening:
                        self._accept()
                    elif sock in self._hellos:  # not dropped meanwhile
                        self._hear(sock)
                except (
                    OSError
                ) as error:  # for one, too many open files: it passes, and this thread is needed longer
                    log.debug("a connection failed", exc_info=error)
                    self._drop(sock)
                    time.sleep(BEAT_S / 10)

    def _accept(self) -> None:
        connection, _ = self._listening.accept()
        connection.setblocking(False)
        self._hellos[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)
        if len(self._hellos) > MAX_STRANGERS:
            self._drop(next(iter(self._hellos)))

    def _hear(self, connection: socket.socket) -> None:
        """Read what has come of a hello; who has said all of it is a process, or is dropped."""
        with suppress(BlockingIOError):
            heard = connection.recv(HELLO.size - len(self._hellos[connection]))
            self._hellos[connection] += heard
            said = self._hellos[connection]
            if not heard:
                self._drop(connection)
            elif len(said) == HELLO.size:
                rank, token = HELLO.unpack(said)
                if (
                    rank in self._ranks
                    and rank not in self.addresses
                    and compare_digest(token.hex(), self.token)
                ):
                    self._forget(connection)
                    self.addresses[rank] = connection.getpeername()[0]
                    threading.Thread(target=self._listen, args=(connection, rank), daemon=True).start()
                else:
                    self._drop(connection)

    def _forget(self, connection: socket.socket) -> None:
        del self._hellos[connection]
        self._selector.unregister(connection)

    def _drop(self, connection: socket.socket) -> None:
        if connection in self._hellos:
            self._forget(connection)
            connection.close()

    def _listen(self, connection: socket.socket, rank: int) -> None:
        with connection, suppress(OSError):
            if is_silent(connection):
                self.silent.add(rank)


def is_silent(connection: socket.socket) -> bool:
    """Exchange a byte each second; return True once nothing has come for too long, False when the
    other side closes."""
    connection.settimeout(BEAT_S)
    heard = sent = time.monotonic()
    with suppress(ConnectionError):
        connection.sendall(b".")
        while time.monotonic() - heard < SILENT_S:
            try:
                if not connection.recv(64):
                    return False
                heard = time.monotonic()
            except TimeoutError:
                pass
            if time.monotonic() - sent >= BEAT_S:
                sent = time.monotonic()
                with suppress(TimeoutError):
                    connection.send(b".")
        return True
    return False


def watch_first_process(
    rank: ProcessRank, address: str, port: int, token: str, end: Callable[[int], object] = os._exit
) -> None:
    """In a process on another machine: end this process with a message when the first one's machine
    is gone.

    Its main thread may be waiting in a library at that time, so that an exception could not reach
    it.
    """

    def watch() -> None:
        with (
            suppress(ConnectionError),
            socket.create_connection((address, port), timeout=SILENT_S) as connection,
        ):
            connection.sendall(HELLO.pack(rank.rank, bytes.fromhex(token)))
            if not is_silent(connection):
                return
            first = silence_of(f"process 0 at {address}, which has the job,")
            say(f"error: process {rank.rank} of {rank.processes}: {first}")
            end(1)

    threading.Thread(target=watch, daemon=True).start()


def say_elsewhere(rank: ProcessRank, what: str) -> None:
    """Print an error on a machine without the first process, which prints its own, once for the
    machine."""
    if not rank.is_with_first and rank.local_rank == 0:
        why = f"process 0 at {os.environ['MASTER_ADDR']}, which has the job, says why, unless it was killed itself"
        say(f"error: process {rank.rank} of {rank.processes}: {what}; {why}")


def silence_of(whose: str) -> str:
    """Return the message that a process's machine is gone."""
    why = "its machine is gone, or the network between"
    return f"{whose} was not heard from for {SILENT_S:g} s: {why}"

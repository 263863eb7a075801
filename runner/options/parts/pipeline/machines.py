"""Selects network interfaces for a pipeline that spans several machines, and exchanges heartbeats between
them.

A machine without power or network closes no connection, so a process would wait for it for
many minutes. Therefore each process on another machine keeps a connection to the first
process, on which both send a byte each second.
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
from runner_base import print_message

BEAT_S = 1.0
SILENT_S = 20.0  # longer than a network takes to repair itself; within it TCP sends again what was lost
GET_INTERFACE_ADDRESS = 0x8915  # SIOCGIFADDR
TOKEN_BYTES = 16
HELLO = struct.Struct(f"!i{TOKEN_BYTES}s")  # the rank, and the token from the store
MAX_STRANGERS = 64  # connections that have not said who they are; a process says so as it connects
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
log = logging.getLogger(__name__)


def local_address() -> str:
    """Return the IP address by which this machine reaches the machine of torchrun's first process."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))  # sends nothing
        return str(probe.getsockname()[0])


def find_network_interface(address: str) -> str | None:
    """Return the name of the network interface with this IPv4 address, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                answer = ioctl(asking, GET_INTERFACE_ADDRESS, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


@contextmanager
def set_gloo_network_interface(rank: ProcessRank) -> Iterator[None]:
    """Make gloo use the network interface that leads to the other processes.

    That is the loopback interface if all processes are on this machine, else the interface on
    the route to torchrun's first machine. gloo's own default is the host name's address.
    """
    if rank.is_single_machine:
        name = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    else:
        name = find_network_interface(local_address())
    if GLOO_INTERFACE in os.environ or name is None:
        yield
        return
    os.environ[GLOO_INTERFACE] = name
    try:
        yield
    finally:
        del os.environ[GLOO_INTERFACE]


class HeartbeatServer:
    """Receives heartbeats from processes on other machines, and records which processes have gone silent.

    Anyone in the network can connect. A connection is accepted after a hello with the token
    from the store and an expected, unconnected rank. Other connections get no thread, and only
    a few stay open at a time.
    """

    def __init__(self, ranks: Collection[int]) -> None:
        self.addresses: dict[int, str] = {}  # by rank
        self.silent: set[int] = set()
        self.token = secrets.token_hex(TOKEN_BYTES)
        self._ranks = ranks
        self._hellos: dict[
            socket.socket, bytes
        ] = {}  # of connections that have not said all of it, oldest first
        self._listening = socket.create_server((local_address(), 0))
        self._listening.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self.address, self.port = self._listening.getsockname()[:2]
        threading.Thread(target=self._accept_loop, daemon=True).start()

    def _accept_loop(self) -> None:
        while True:
            for key, _ in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                try:
                    if sock is self._listening:
                        self._accept_heartbeat_connection()
                    elif sock in self._hellos:  # not dropped meanwhile
                        self._read_hello(sock)
                except (
                    OSError
                ) as error:  # for one, too many open files: it passes, and this thread is needed longer
                    log.debug("a connection failed", exc_info=error)
                    self._close_connection(sock)
                    time.sleep(BEAT_S / 10)

    def _accept_heartbeat_connection(self) -> None:
        connection, _ = self._listening.accept()
        connection.setblocking(False)
        self._hellos[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)
        if len(self._hellos) > MAX_STRANGERS:
            self._close_connection(next(iter(self._hellos)))

    def _read_hello(self, connection: socket.socket) -> None:
        """Read the hello message of a new connection, then accept or close the connection."""
        with suppress(BlockingIOError):
            heard = connection.recv(HELLO.size - len(self._hellos[connection]))
            self._hellos[connection] += heard
            said = self._hellos[connection]
            if not heard:
                self._close_connection(connection)
            elif len(said) == HELLO.size:
                rank, token = HELLO.unpack(said)
                if (
                    rank in self._ranks
                    and rank not in self.addresses
                    and compare_digest(token.hex(), self.token)
                ):
                    self._unregister(connection)
                    self.addresses[rank] = connection.getpeername()[0]
                    threading.Thread(
                        target=self._watch_heartbeat, args=(connection, rank), daemon=True
                    ).start()
                else:
                    self._close_connection(connection)

    def _unregister(self, connection: socket.socket) -> None:
        del self._hellos[connection]
        self._selector.unregister(connection)

    def _close_connection(self, connection: socket.socket) -> None:
        if connection in self._hellos:
            self._unregister(connection)
            connection.close()

    def _watch_heartbeat(self, connection: socket.socket, rank: int) -> None:
        with connection, suppress(OSError):
            if exchange_heartbeats(connection):
                self.silent.add(rank)


def exchange_heartbeats(connection: socket.socket) -> bool:
    """Exchange heartbeats with another machine. Returns True after 20 s of silence, False if it closes
    the connection.
    """
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


def exit_if_first_process_unreachable(
    rank: ProcessRank,
    address: str,
    port: int,
    auth_token: str,
    exit_process: Callable[[int], object] = os._exit,
) -> None:
    """End this process with an error message when the machine of the pipeline's first process becomes
    unreachable.

    The main thread may be blocked in a library, where an exception could not reach it.
    """

    def watch_heartbeat() -> None:
        with (
            suppress(ConnectionError),
            socket.create_connection((address, port), timeout=SILENT_S) as connection,
        ):
            connection.sendall(HELLO.pack(rank.rank, bytes.fromhex(auth_token)))
            if not exchange_heartbeats(connection):
                return
            first = format_unreachable_message(f"the job's process 0 at {address}")
            print_message(f"error: process {rank.rank} of {rank.processes}: {first}")
            exit_process(1)

    threading.Thread(target=watch_heartbeat, daemon=True).start()


def print_remote_error(rank: ProcessRank, message: str) -> None:
    if not rank.is_on_first_machine and rank.local_rank == 0:
        why = f"for the cause, see the output of process 0 at {os.environ['MASTER_ADDR']}"
        print_message(f"error: process {rank.rank} of {rank.processes}: {message}; {why}")


def format_unreachable_message(process_name: str) -> str:
    why = "the machine or the network connection has failed"
    return f"{process_name} has not responded for {SILENT_S:g} s: {why}"

"""Two hosts on this machine: network namespaces with addresses of their own, and a link that
delays, loses and breaks.

All traffic stays in these namespaces. They are gone at the end, with every process in them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

CGROUPS = Path("/sys/fs/cgroup")
RELAY = Path(__file__).with_name("relay.py")
WAIT_S = 30


def ip(*words: str) -> str:
    """Run the command `ip`."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


@dataclass
class Host:
    """One of the two."""

    name: str
    address: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    group: Path | None = None  # the control group that limits its memory

    def start(self, *words: str, **keys: Any) -> subprocess.Popen[str]:
        """Start Python with these arguments here."""
        command = ["ip", "netns", "exec", self.name, sys.executable, *words]
        if self.group is not None:
            command = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(self.group), *command]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **keys
        )
        self.processes.append(process)
        return process

    def limit_memory(self, mib: int) -> None:
        """Let all processes that start here from now on have so much memory together; skips where
        that is not allowed."""
        version_1 = Path("/sys/fs/cgroup/memory")
        root, file = (version_1, "memory.limit_in_bytes") if version_1.exists() else (CGROUPS, "memory.max")
        group = root / self.name
        try:
            group.mkdir()
            self.group = group
            (group / file).write_text(str(mib * 2**20))
        except OSError as error:
            pytest.skip(f"no control group for memory: {error}")

    def link(self, state: str) -> None:
        """Take this host's side of the link `up` or `down`; nobody is told."""
        ip("-n", self.name, "link", "set", "wire", state)

    def pids(self) -> list[int]:
        """Return the processes that run here."""
        return [int(pid) for pid in ip("netns", "pids", self.name).split()]

    def kill_all(self) -> None:
        """Kill every process here, and wait until all are gone."""
        end = time.monotonic() + WAIT_S
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in self.processes:
                process.poll()  # a zombie stays in the list
            assert time.monotonic() < end, pids
            time.sleep(0.02)


def why_not() -> str | None:
    """Return why there can be no such hosts here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no command ip: apt-get install iproute2"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    name = f"runner-{uuid4().hex[:8]}-probe"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"no network namespaces: {done.stderr.strip()}"
    ip("netns", "del", name)
    return None


@contextmanager
def two_hosts(delay_s: float = 0.0, loss: float = 0.0) -> Iterator[tuple[Host, Host]]:
    """Make two hosts with a link between them; skips the test where that is not allowed."""
    if reason := why_not():
        pytest.skip(reason)
    token = uuid4().hex[:8]  # the host of a test that was killed may still be there
    hosts = [Host(f"runner-{token}-{letter}", f"10.77.0.{number}") for number, letter in ((1, "a"), (2, "b"))]
    relay = None
    try:
        for host in hosts:
            ip("netns", "add", host.name)
        command = [sys.executable, str(RELAY), hosts[0].name, hosts[1].name, str(delay_s), str(loss)]
        relay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert relay.stdout is not None
        assert relay.stdout.readline() == "ready\n"
        for host in hosts:
            ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "wire")
            ip("-n", host.name, "link", "set", "lo", "up")
            host.link("up")
        yield hosts[0], hosts[1]
    finally:
        existing = {line.split()[0] for line in ip("netns", "list").splitlines()}
        for host in hosts:
            if host.name in existing:
                host.kill_all()
            for process in host.processes:
                process.communicate()
            if host.name in existing:
                ip("netns", "del", host.name)
            if host.group is not None:
                host.group.rmdir()
        if relay is not None:
            relay.communicate()

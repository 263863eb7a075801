"""A real Ray on this machine: a head and two nodes, each a host of its own, for the time of a test.

A host is a network namespace with an address, and a view of the disk in which the cluster's folder
is empty: the nodes share no file that a job writes, unless that is wanted. All traffic stays in
these namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from grids import command, wait_for
from hosts import Host, ip, why_not

PORT = 7399
STARTED, GAVE_UP = "Ray runtime started", "timed out during startup"
STARTS = 3
HEAD, *NODES = "head", "alpha", "beta"
PREFIX = "ray-test-"  # of the namespaces' names
# A node that is silent so long counts as dead: 3 s, and not 30 s.
ENVIRONMENT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": uuid.uuid4().hex,
    "PYTHONDONTWRITEBYTECODE": "1",
}


def missing() -> str:
    """Return why there can be no such cluster here; empty if there can be one."""
    if find_spec("ray") is None:
        return "Ray is not installed: pip install 'runner-llm[ray]'"
    if shutil.which("unshare") is None:
        return "there is no command unshare"
    return why_not() or ""


@dataclass
class RayCluster:
    """A running cluster; a grid on its head reaches it at `address`."""

    folder: Path  # on the head's disk
    cores: int
    shares_folder: bool  # whether the nodes see what is written there
    hosts: dict[str, Host] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)  # of the nodes' jobs

    @property
    def address(self) -> str:
        """The address of the cluster."""
        return f"{self.hosts[HEAD].address}:{PORT}"

    @property
    def on_head(self) -> list[str]:
        """The beginning of a command that runs on the head."""
        return ["ip", "netns", "exec", self.hosts[HEAD].name]

    def connect(self) -> None:
        """Make the hosts, with a bridge between them in the head's namespace."""
        token = uuid.uuid4().hex[:8]  # the host of a test that was killed may still be there
        for number, name in enumerate((HEAD, *NODES), 1):
            host = self.hosts[name] = Host(f"{PREFIX}{token}-{name}", f"10.78.0.{number}")
            ip("netns", "add", host.name)
            ip("-n", host.name, "link", "set", "lo", "up")
        head = self.hosts[HEAD].name
        ip("-n", head, "link", "add", "bridge", "type", "bridge")
        ip("-n", head, "addr", "add", f"{self.hosts[HEAD].address}/24", "dev", "bridge")
        ip("-n", head, "link", "set", "bridge", "up")
        for name in NODES:
            host = self.hosts[name]
            ip("link", "add", name, "netns", head, "type", "veth", "peer", "name", "wire", "netns", host.name)
            ip("-n", head, "link", "set", name, "master", "bridge")
            ip("-n", head, "link", "set", name, "up")
            ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "wire")
            ip("-n", host.name, "link", "set", "wire", "up")

    def start(self, name: str, *words: str) -> None:
        """Start Ray on a host; only the head sees the cluster's folder."""
        host = self.hosts[name]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={host.address}", "--block",
               "--object-store-memory=80000000", "--disable-usage-stats", *words]  # fmt: skip
        hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(self.folder)]
        log = self.folder / f"{name}.log"
        command = [
            "ip",
            "netns",
            "exec",
            host.name,
            *([] if name == HEAD or self.shares_folder else hidden),
            *ray,
        ]
        if not any(self._runs(host, command, log) for _ in range(STARTS)):
            raise AssertionError(log.read_text())

    def _runs(self, host: Host, command: list[str], log: Path) -> bool:
        """Run Ray on a host; False if it has not started in its 30 s, as on a busy machine."""
        with log.open("w") as out:
            process = subprocess.Popen(
                command, env=os.environ | ENVIRONMENT | self.environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, text=True,
            )  # fmt: skip
        host.processes.append(process)
        wait_for(lambda: STARTED in log.read_text() or process.poll() is not None, seconds=120)
        if process.poll() is None:
            return True
        assert GAVE_UP in log.read_text(), log.read_text()
        host.kill_all()
        return False

    def start_node(self, name: str) -> None:
        """Start Ray on a node."""
        self.start(name, f"--address={self.address}", f"--num-cpus={self.cores}")

    def node_of(self, job_id: str) -> str | None:
        """Return the node that runs a job now: Ray gives a worker's process the name of its task,
        which begins with it."""
        begin = f"ray::{job_id} ".encode()
        return next(
            (
                name
                for name in NODES
                if any(command(pid).startswith(begin) for pid in self.hosts[name].pids())
            ),
            None,
        )

    def kill_node(self, name: str) -> None:
        """Kill every process of a node: Ray's own and those of its jobs."""
        self.hosts[name].kill_all()


@contextmanager
def running_ray(
    folder: Path, environment: dict[str, str] | None = None, cores: int = 2, shares_folder: bool = False
) -> Iterator[RayCluster]:
    """Start a cluster whose head runs no jobs, and end it with every process in it."""
    cluster = RayCluster(folder, cores, shares_folder, environment=environment or {})
    try:
        cluster.connect()
        cluster.start(HEAD, "--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false",
                      f"--temp-dir={folder / 'ray'}")  # fmt: skip
        for name in NODES:
            cluster.start_node(name)
        yield cluster
    finally:
        for host in cluster.hosts.values():
            host.kill_all()
            for process in host.processes:
                process.wait()
            ip("netns", "del", host.name)

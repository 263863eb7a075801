"""A real Slurm on this machine: a controller and two nodes, with files and ports of their own, for
the time of a test.

Nothing outside of the given folder is written, and nothing listens on another address than
127.0.0.1.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grids import wait_for
from servers import free_port

PROGRAMS = (
    "munged",
    "slurmctld",
    "slurmd",
    "sbatch",
    "squeue",
    "scancel",
    "scontrol",
    "sinfo",
    "srun",
    "setpriv",
)
INSTALL = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
NODES = ("alpha", "beta")
STARTS = 3
START_S = 30.0  # a start takes about one second
# daemons are in sbin
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
# KillWait: seconds from SIGTERM to SIGKILL. cred_expire: a requeued job waits so long, 120 s unless
# set. SlurmdTimeout: seconds until a node that is silent counts as down.
CONFIG = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MaxArraySize={largest_array}
"""


def missing() -> list[str]:
    """Return the programs of Slurm that are not installed here."""
    return [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]


@dataclass
class Slurm:
    """A running Slurm; processes with `environment` use it."""

    folder: Path
    _daemons: list[subprocess.Popen[Any]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its clients, and the mark of all its processes."""
        return {"SLURM_CONF": f"{self.folder}/slurm.conf", "PATH": PATH}

    def start(self, program: str, *arguments: str) -> None:
        """Start a daemon, which writes to a file of its own; the kernel ends it if this process
        dies."""
        path = shutil.which(program, path=PATH)
        assert path is not None
        with (self.folder / f"{program}.out").open("ab") as out:
            daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", path, *arguments], env=os.environ | self.environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        self._daemons.append(daemon)

    def start_node(self, name: str) -> None:
        """Start a node's daemon."""
        self.start("slurmd", "-D", "-N", name)

    def ask(self, *command: str) -> str:
        """Run one of Slurm's commands and return what it prints."""
        done = subprocess.run(
            command,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def states(self) -> dict[str, str]:
        """Return the state of each node."""
        return dict(line.split() for line in self.ask("sinfo", "-hN", "-o", "%N %t").splitlines())

    def jobs(self, state: str = "all") -> dict[str, str]:
        """Return the jobs in a state and the node of each, by Slurm's id."""
        lines = self.ask("squeue", "-h", "--array", f"--states={state}", "-o", "%i %N").splitlines()
        return {words[0]: " ".join(words[1:]) for line in lines if (words := line.split())}

    def drain(self, node: str) -> None:
        """Let a node finish its jobs and give it no others."""
        self.ask("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon and the processes of its jobs at once, as when its power fails."""
        of_node = [
            pid for pid in self.processes() if f"SLURMD_NODENAME={node}".encode() in _words(pid, "environ")
        ]
        daemons = [pid for pid in self.processes() if _words(pid, "cmdline")[-3:-1] == [b"-N", node.encode()]]
        parents = {
            pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in of_node
        }
        steps = [pid for pid in {*parents.values()} if _words(pid, "cmdline")[0].startswith(b"slurmstepd")]
        for pid in (
            *daemons,
            *steps,
            *of_node,
        ):  # in this order nobody is left to report the death of another
            _kill(pid)

    def processes(self) -> list[int]:
        """Return the processes of the cluster and of its jobs."""
        ours = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        numbers = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
        return [pid for pid in numbers if ours in _words(pid, "environ")]

    def stop(self) -> None:
        """Kill all processes of the cluster."""
        give_up_at = time.monotonic() + 30
        while (living := self.processes()) and time.monotonic() < give_up_at:
            for pid in living:
                _kill(pid)
            time.sleep(0.05)
        assert not living
        for daemon in self._daemons:
            daemon.wait()


def _words(pid: int, file: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is of another user
        return [b""]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def running_slurm(folder: Path, cores: int = 2, largest_array: int = 1001) -> Iterator[Slurm]:
    """Start a Slurm with two nodes of so many cores, wait until they are idle, and always stop
    everything."""
    for attempt in range(STARTS):  # another process may take a port before a daemon listens there
        cluster = Slurm(folder / str(attempt))
        try:
            if not _start(cluster, cores, largest_array):
                logs = [
                    file.read_text()[-2000:]
                    for file in (*cluster.folder.glob("*.out"), *cluster.folder.glob("*.log"))
                ]
                assert attempt + 1 < STARTS, "\n".join(logs)
                continue
            yield cluster
            return
        finally:
            cluster.stop()


def _start(cluster: Slurm, cores: int, largest_array: int) -> bool:
    """Start all daemons; return whether the nodes were idle in time."""
    folder = cluster.folder
    for name in ("munge", "state"):
        (folder / name).mkdir(parents=True, mode=0o755)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    user = pwd.getpwuid(os.getuid()).pw_name
    text = CONFIG.format(folder=folder, port=free_port(), user=user, largest_array=largest_array)
    for name in NODES:
        text += f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={free_port()} CPUs={cores} State=UNKNOWN\n"
    (folder / "slurm.conf").write_text(f"{text}PartitionName=main Nodes=ALL Default=YES State=UP\n")
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [word for option, name in files.items() for word in (f"--{option}", f"{folder}/munge/{name}")]
    cluster.start("munged", "--force", "--foreground", *options)
    wait_for((folder / "munge" / "socket").exists, 20)
    cluster.start("slurmctld", "-D")
    for name in NODES:
        cluster.start_node(name)
    give_up_at = time.monotonic() + START_S
    while not _is_idle(cluster):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.1)
    return True


def _is_idle(cluster: Slurm) -> bool:
    try:
        return cluster.states() == dict.fromkeys(NODES, "idle")
    except (AssertionError, subprocess.TimeoutExpired):  # the controller does not answer yet
        return False


def main() -> None:
    """Run a Slurm in a new folder until Ctrl-C, to try commands by hand."""
    folder = Path(sys.argv[1]).absolute()
    with running_slurm(folder) as cluster:
        print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)


if __name__ == "__main__":
    main()

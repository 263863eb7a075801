"""Real servers on this machine's loopback: MLflow's, and PostgreSQL if Debian's package is
installed."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import warm_process

# Its jobs (evaluations, scorers) would be five more processes that import MLflow, and no test uses
# them.
PLAIN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def free_port() -> int:
    """Return a port that is free, and that the system does not give to other sockets meanwhile."""
    # the ports that the system gives away itself
    own_range = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first_given = int(own_range.read_text().split()[0]) if own_range.exists() else 32768
    while True:
        port = random.SystemRandom().randrange(max(1024, first_given // 2), first_given)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a new server is ready; its log is the message if it ends or takes too long."""
    end = time.monotonic() + 90
    while not ready():
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.2)


@contextlib.contextmanager
def mlflow_server(
    folder: Path, port: int, backend: str | None = None, options: tuple[str, ...] = (), **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a real MLflow server with its runs in a backend (sqlite in the folder) and its files in
    the folder."""
    folder.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", backend or f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "a"), *options]

    def healthy() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
        except OSError:
            return False
        return True

    path = folder / "server.log"
    with path.open("ab") as log:
        variables = os.environ | PLAIN | environment
        process = warm_process.popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        until(healthy, process, path)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def postgres_binaries() -> Path | None:
    """Return the folder of initdb and postgres: Debian's, which is not on the path, or else one on
    the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folders += [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    return next(
        (folder for folder in folders if {"initdb", "postgres"} <= {it.name for it in folder.iterdir()}), None
    )


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Run a real PostgreSQL on a socket in a new folder; yields its URI. Skips the test if there is
    none."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
    psycopg = pytest.importorskip("psycopg")
    # PostgreSQL refuses to run as root; Debian's package brings a user for it.
    user = next((entry for entry in pwd.getpwall() if entry.pw_name == "postgres"), None)
    if os.geteuid() == 0 and user is None:
        pytest.skip("PostgreSQL does not run as root, and there is no user named postgres")
    as_user: dict[str, Any] = (
        {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.geteuid() == 0 and user else {}
    )
    # Below /tmp: a socket's path may have 107 characters, and pytest's folders are closed to other
    # users.
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    try:
        if as_user and user:
            os.chown(folder, user.pw_uid, user.pw_gid)
        data, path = folder / "data", folder / "server.log"
        quick = ["-c", "fsync=off", "-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
        made = subprocess.run(
            [
                binaries / "initdb",
                "-D",
                data,
                "-U",
                "runner",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-locale",
                "--no-sync",
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            **as_user,
        )
        assert made.returncode == 0, made.stderr
        with path.open("ab") as log:
            process = subprocess.Popen(
                [binaries / "postgres", "-D", data, *quick], cwd=folder, stdout=log, stderr=log, **as_user
            )

        def accepts() -> bool:
            try:
                psycopg.connect(dbname="postgres", user="runner", host=str(folder)).close()
            except psycopg.OperationalError:
                return False
            return True

        try:
            until(accepts, process, path)
            yield f"postgresql://runner@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGQUIT)  # immediate shutdown, with all its children
            process.wait(timeout=200)
    finally:
        shutil.rmtree(folder)

"""Run the commands of same_answers.py in one checkout, each forked from a process that has imported the libraries.

It is started with the Python of that checkout, whose tests/support/warm_process.py forks: CHECKOUT SOCKET.
"""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from threading import Thread
from typing import Any


def run(socket: Path, command: list[str], **keys: Any) -> subprocess.CompletedProcess[str]:
    """Have a command run by the process that listens at this socket; keys are those of its `complete`."""
    with Client(str(socket), "AF_UNIX") as connection:
        connection.send((command, keys))
        printed = connection.recv()
    if isinstance(printed, Exception):
        raise printed
    return subprocess.CompletedProcess(command, *printed)


def answer(connection: Connection) -> None:
    """Run one command, and send what it printed, or the exception."""
    import warm_process

    with connection:
        command, keys = connection.recv()
        try:
            done = warm_process.complete(command, **keys)
        except Exception as error:  # noqa: BLE001  # whoever asked raises it
            connection.send(error)
        else:
            connection.send((done.returncode, done.stdout, done.stderr))


def listen(socket: str) -> None:
    """Answer whoever connects."""
    with Listener(f"{socket}.new", "AF_UNIX") as listener:
        os.rename(f"{socket}.new", socket)  # whoever sees this name can connect
        while True:
            Thread(target=answer, args=[listener.accept()], daemon=True).start()


def main() -> None:
    """Answer until whoever started this process closes its stdin, or ends."""
    sys.path.insert(0, str(Path(sys.argv[1], "tests/support")))
    import warm_process

    warm_process.warm()
    Thread(target=listen, args=[sys.argv[2]], daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()

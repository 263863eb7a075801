"""Processes that start warm get what they would get from Popen."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from multiprocessing import Pipe

import pytest
import warm_process

SENDS = """
import sys
from multiprocessing.connection import Connection
with Connection(int(sys.argv[1])) as connection:
    connection.send("hello")
"""


# the fork's own copies of descriptors begin at 200
@pytest.mark.thorough
@pytest.mark.parametrize("number", [50, 202, 305])
def test_a_descriptor_of_any_number_is_handed_on(number: int) -> None:
    ours, theirs = Pipe()
    descriptor = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD, number)
    theirs.close()
    command = [sys.executable, "-c", SENDS, str(descriptor)]
    process = warm_process.popen(command, pass_fds=[descriptor], stderr=subprocess.PIPE, text=True)
    os.close(descriptor)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    with ours:
        assert ours.recv() == "hello"

"""Stdin, which can be read only once."""

from __future__ import annotations

import logging
import sys
from functools import cache

from runner_base import doing, silent

log = logging.getLogger(__name__)

STDIN = "-"


@cache  # a job is identified several times in a process
def read_stdin() -> bytes:
    """Return all of stdin, however often it is called."""
    if sys.stdin.isatty():
        log.info("reading from the terminal; Ctrl-D ends")
    with silent() if sys.stdin.isatty() else doing("reading stdin"):
        return sys.stdin.buffer.read()

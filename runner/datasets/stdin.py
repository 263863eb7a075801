"""Reads stdin once and caches it."""

from __future__ import annotations

import logging
import sys
from functools import cache

from runner_base import report_step, suppress_heartbeat

log = logging.getLogger(__name__)

STDIN = "-"


@cache  # a job is identified several times in a process
def read_stdin_once() -> bytes:
    """Return all of stdin as bytes. Later calls return the same bytes."""
    if sys.stdin.isatty():
        log.info("reading from the terminal; Ctrl-D ends")
    with suppress_heartbeat() if sys.stdin.isatty() else report_step("reading stdin"):
        return sys.stdin.buffer.read()

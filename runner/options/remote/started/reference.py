"""A process that computes what a started server is compared with, and ends before the server
begins."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from runner_base import child, one_line

REFERENCE_S = 3600.0


class NoReference(Exception):
    """The process failed; the text is the last line that it wrote."""


def ask(module: str, order: dict[str, Any]) -> Any:
    """Return what a module's program answers to an order, both as JSON."""
    pipe = subprocess.PIPE
    process = child.start("-m", module, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        out, err = process.communicate(json.dumps(order).encode(), REFERENCE_S)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        lines = err.decode(errors="replace").strip().splitlines()
        raise NoReference(one_line((lines or [child.describe_exit(process.returncode)])[-1]))
    return json.loads(out.decode().splitlines()[-1])

"""Computes reference results for a started server in a subprocess, which ends before the server starts."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from runner_base import child_process, to_one_line

REFERENCE_S = 3600.0


class ReferenceFailed(Exception):
    """Raised if the reference subprocess failed, with the last line of its output."""


def run_reference_process(module_name: str, request: dict[str, Any]) -> Any:
    pipe = subprocess.PIPE
    process = child_process.start_python_child_process(
        "-m", module_name, stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        out, err = process.communicate(json.dumps(request).encode(), REFERENCE_S)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        lines = err.decode(errors="replace").strip().splitlines()
        raise ReferenceFailed(
            to_one_line((lines or [child_process.describe_exit_code(process.returncode)])[-1])
        )
    return json.loads(out.decode().splitlines()[-1])

"""Adds compiled kernels to a wheel, and its tag: where RUNNER_PREBUILT names their folder
(tools/wheel.py)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PrebuiltKernels(BuildHookInterface[Any]):
    """Hatchling calls it before it builds a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries; without them the wheel is for any machine, as before."""
        if folder := os.environ.get("RUNNER_PREBUILT"):
            libraries = sorted(Path(folder).glob("kernels-*.so"))
            into = "runner_engine/kernels/prebuilt"
            build_data |= {"pure_python": False, "tag": os.environ["RUNNER_WHEEL_TAG"]}
            build_data["force_include"] |= {str(file): f"{into}/{file.name}" for file in libraries}

"""runner compares models, quantizations, LoRA adapters, RoPE scalings and generation settings by
quality, cost and statistical significance.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import runner_base  # noqa: F401 – first of all: it refuses Windows, and says how torch's threads wait

if TYPE_CHECKING:
    from runner.grid.grid_api import run_grid as grid
    from runner.library.answers import Answer
    from runner.library.jobs import evaluate
    from runner.library.load import load
    from runner.library.model import Model
    from runner_compare import Compare
    from runner_compare import gate as gate

    compare: Compare  # a package that can be called

MODULE_OF = {
    "load": "runner.library.load",
    "Model": "runner.library.model",
    "Answer": "runner.library.answers",
    "evaluate": "runner.library.jobs",
    "gate": "runner_compare.release_gate.python_api",
}
__all__ = ["Answer", "Model", "compare", "evaluate", "gate", "grid", "load", "load_part"]


def __getattr__(name: str) -> Any:
    """Import a public name of the package at its first use, because some names import torch or Hydra."""
    if name in ("grid", "compare"):
        # packages that can be called
        return import_module({"grid": "runner.grid", "compare": "runner_compare"}[name])
    if name in MODULE_OF:
        return getattr(import_module(MODULE_OF[name]), name)
    if not name.startswith("_"):
        from runner_base import load_plug_in_object
        from runner_base.plugins import find_builtin_options

        if name in find_builtin_options("python"):
            return load_plug_in_object("python", name, object)
    raise AttributeError(f"module 'runner' has no attribute {name!r}")

"""runner: which model × quantization × LoRA × RoPE × generation setting, at what cost, and is the difference real?"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if os.name == "nt":  # locks, signals and mapped files are those of Unix
    print(
        "error: runner does not run on Windows itself. Install WSL2 (wsl --install) and run it there", file=sys.stderr
    )
    raise SystemExit(2)

# At every matrix product, torch's CPU threads wait for each other in a spin loop. On a busy machine, the thread that
# they wait for may have lost its core to a spinning one: a step then takes 14 times as long as when waiting threads go
# to sleep after some microseconds. The threads' library reads the variable when it is loaded, so it is set here.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


if TYPE_CHECKING:
    from runner.grid.rows import rows as grid
    from runner.library.jobs import evaluate
    from runner.library.load import load
    from runner.library.model import Answer, Model
    from runner_compare.in_python import Compare

    compare: Compare  # a package that can be called

MODULE_OF = {
    "load": "runner.library.load",
    "Model": "runner.library.model",
    "Answer": "runner.library.model",
    "evaluate": "runner.library.jobs",
}
__all__ = ["Answer", "Model", "compare", "evaluate", "grid", "load", "load_part"]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: some of them import torch, others Hydra."""
    if name in ("grid", "compare"):
        return import_module({"grid": "runner.grid", "compare": "runner_compare"}[name])  # packages that can be called
    if name in MODULE_OF:
        return getattr(import_module(MODULE_OF[name]), name)
    if not name.startswith("_"):
        from runner_base.plugins import load_object, own_options

        if name in own_options("python"):
            return load_object("python", name, object)
    raise AttributeError(f"module 'runner' has no attribute {name!r}")

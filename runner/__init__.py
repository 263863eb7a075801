"""runner: which model × quantization × LoRA × RoPE × generation setting, at what cost, and is the difference real?"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Torch's CPU threads wait for each other by spinning, at every product. On a machine with other work the one that is
# waited for may have lost its core to the one that spins: a step then takes 14 times as long as when the waiting ones
# go to sleep after some microseconds. Read by the threads' library when it is loaded, so it has to stand here.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


if TYPE_CHECKING:
    from runner.grid.rows import rows as grid
    from runner.library.jobs import evaluate
    from runner.library.load import load
    from runner.library.model import Answer, Model
    from runner.sharding.load_part import load_part

HOMES = {
    "load": "runner.library.load",
    "Model": "runner.library.model",
    "Answer": "runner.library.model",
    "evaluate": "runner.library.jobs",
    "load_part": "runner.sharding.load_part",
}
__all__ = ["Answer", "Model", "evaluate", "grid", "load", "load_part"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, and with it no more than it needs: some of it brings torch, some Hydra."""
    if name == "grid":
        return import_module("runner.grid")  # a folder that can be called
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module 'runner' has no attribute {name!r}")

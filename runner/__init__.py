"""runner: which model × quantization × LoRA × RoPE × generation setting, at what cost, and is the difference real?"""

import os
from typing import Any

# Torch's CPU threads wait for each other by spinning, at every product. On a machine with other work the one that is
# waited for may have lost its core to the one that spins: a step then takes 14 times as long as when the waiting ones
# go to sleep after some microseconds. Read by the threads' library when it is loaded, so it has to stand here.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name: str) -> Any:
    """`runner.load_part`, imported when it is asked for: with it comes torch."""
    if name == "load_part":
        from runner.sharding.load_part import load_part

        return load_part
    raise AttributeError(f"module 'runner' has no attribute {name!r}")

"""The process of a maker: reads an order from stdin, lets one module make the model, and reports.

It runs in the maker's own environment, and imports nothing but Python and that module. Its stdout
is for the runner alone: what a library prints goes to the log. It dies with the runner.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

PR_SET_PDEATHSIG = 1  # of Linux's prctl
KIB_A_MIB = 1024 if sys.platform == "linux" else 1024**2


class Tools:
    """What a maker's module is handed besides the order."""

    def __init__(self, order: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
        self.order, self._say = order, say
        self.tokens = self.pieces = 0  # that were read

    def step(self, name: str, done: int = 0, total: int = 0) -> None:
        """Tell the runner what is being done, and how much of it is done."""
        self._say({"step": name, "done": done, "total": total})

    def texts(self) -> list[str]:
        """Return the calibration's texts."""
        found: list[str] = json.loads(Path(self.order["texts"]).read_text(encoding="utf-8"))
        return found

    def shard_limit(self) -> dict[str, int]:
        """Return the argument by which packages limit each file of weights; none for their own."""
        size: int | None = self.order["shard_bytes"]
        return {} if size is None else {"max_shard_size": size}

    def cut(self, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return pieces of the tokens of all texts, one after the other, spread evenly over them;
        each has as many tokens as was asked for."""
        tokens = [token for text in texts for token in text]
        size: int = self.order["sequence_tokens"]
        whole = len(tokens) // size
        if not whole:
            why = f"{len(tokens)} tokens, fewer than a piece of task.sequence_tokens={size}"
            sys.exit(f"Error: task.calibration has {why}")
        count = min(self.order["sequences"], whole)
        starts = [number * whole // count * size for number in range(count)]
        self.pieces, self.tokens = count, count * size
        return [tokens[start : start + size] for start in starts]


def main() -> None:
    """Make what was ordered."""
    order = json.loads(sys.stdin.read())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order["parent"]:
        sys.exit(1)
    own = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    tools = Tools(order, lambda said: print(json.dumps(said), file=own))
    started = time.monotonic()
    details: dict[str, Any] = _module(order["maker"]).make(order, tools)
    # of this process, or of the largest program that it has started
    peak = max(
        resource.getrusage(who).ru_maxrss / KIB_A_MIB
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    report = {
        "make_s": time.monotonic() - started,
        "peak_rss_mib": peak,
        "calibration_tokens": tools.tokens,
        "calibration_sequences": tools.pieces,
        "threads": os.environ["OMP_NUM_THREADS"],
    }
    print(json.dumps({"report": report | details}), file=own)


def _module(name: str) -> ModuleType:
    """Import the maker's module by its path, since its folder must hide no package's name."""
    spec = importlib.util.spec_from_file_location(
        f"{name}_maker", Path(__file__).with_name(f"{name}_maker.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()

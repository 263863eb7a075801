"""Entry point of a quantizer process, which reads a request from stdin and runs a quantizer module.

The process runs in the quantizer package's own environment, and imports only the standard
library and the quantizer module. Its stdout is reserved for the runner; library output goes
to the log. It ends with the runner.
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


class QuantizerTools:
    """Helpers for quantizer modules: progress reports, calibration texts and shard size."""

    def __init__(self, request: dict[str, Any], send_message: Callable[[dict[str, Any]], None]) -> None:
        self.order, self._say = request, send_message
        self.tokens = self.pieces = 0  # that were read

    def report_step(self, step_name: str, done: int = 0, total: int = 0) -> None:
        self._say({"step": step_name, "done": done, "total": total})

    def read_texts(self) -> list[str]:
        found: list[str] = json.loads(Path(self.order["texts"]).read_text(encoding="utf-8"))
        return found

    def build_max_shard_size_kwargs(self) -> dict[str, int]:
        """Return `max_shard_size` as an argument for `save_pretrained`, or {} for the package's default."""
        size: int | None = self.order["shard_bytes"]
        return {} if size is None else {"max_shard_size": size}

    def make_calibration_sequences(self, token_ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return calibration sequences of `sequence_tokens` tokens.

        The sequences are spread evenly over the concatenated texts.
        """
        tokens = [token for text in token_ids for token in text]
        size: int = self.order["sequence_tokens"]
        whole = len(tokens) // size
        if not whole:
            why = f"only {len(tokens)} tokens, but one sequence needs task.sequence_tokens={size}"
            sys.exit(f"Error: task.calibration has {why}")
        count = min(self.order["sequences"], whole)
        starts = [number * whole // count * size for number in range(count)]
        self.pieces, self.tokens = count, count * size
        return [tokens[start : start + size] for start in starts]


def main() -> None:
    """Read the request, run the quantizer module that it names, and report the result."""
    order = json.loads(sys.stdin.read())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order["parent"]:
        sys.exit(1)
    own = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    tools = QuantizerTools(order, lambda said: print(json.dumps(said), file=own))
    started = time.monotonic()
    details: dict[str, Any] = _load_quantizer_module(order["maker"]).quantize_model(order, tools)
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


def _load_quantizer_module(module_name: str) -> ModuleType:
    """Import a quantizer module by file path.

    Keeps its folder out of sys.path, where it could shadow a package.
    """
    spec = importlib.util.spec_from_file_location(
        f"{module_name}_maker", Path(__file__).with_name(f"{module_name}_maker.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()

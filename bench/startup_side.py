"""One job, with the seconds of its parts; started by startup.py: `python startup_side.py PARTS.json
OVERRIDE...`.

A function counts for its part without what it calls of other parts. What a copy of the process does
beside is not in them: `mlflow` is how long the job waits for it.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from typing import Any

STARTED = time.perf_counter()
seconds: defaultdict[str, float] = defaultdict(float)
under_way: list[str] = []
last = STARTED

AT_ONCE = {
    "resolve": [
        "runner.config.compose:compose_job",
        "runner.run:read_inputs_and_identify_job",
        "runner.run:check_job_before_model_loading",
    ],
    "imports": ["runner.engines.kinds.local:LocalKind.import_libraries"],
    "load": ["runner_engine.local.base_model_cache:BaseModelCache.get_or_load_base_model"],
    "mlflow": ["runner.tracking.sink:MlflowSink.start_run", "runner.tracking.sink:MlflowSink.finish"],
    "kernels": ["runner.engines.kinds.local:LocalKind.build_kernels"],
}
ONCE_IMPORTED = {
    "trials": [
        "infer_and_test_kv_cache_spec",
        "build_and_verify_fused_forward",
        "choose_matmul_backends",
        "find_batching_mode",
    ],
    "packing": ["FastLayers"],
}


def clock() -> None:
    """Count the time since the last call for the part that was under way."""
    global last
    now = time.perf_counter()
    seconds[under_way[-1] if under_way else "rest"] += now - last
    last = now


def timed(part: str, own: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose time counts for a part."""

    def function(*arguments: Any, **named: Any) -> Any:
        clock()
        under_way.append(part)
        try:
            return own(*arguments, **named)
        finally:
            clock()
            under_way.pop()

    return function


def exchange(holder: Any, name: str, part: str) -> None:
    """Let a function count for a part, if this state of the program has it."""
    if hasattr(holder, name):
        setattr(holder, name, timed(part, getattr(holder, name)))


def main() -> None:
    """Run the job, and write what its parts took."""
    into, sys.argv = sys.argv[1], ["runner", *sys.argv[2:]]
    under_way.append("own modules")
    entry = import_module("runner.__main__").entry
    for part, places in AT_ONCE.items():
        for place in places:
            module, _, name = place.partition(":")
            holder = import_module(module)
            *owner, name = name.split(".")
            exchange(getattr(holder, owner[0]) if owner else holder, name, part)
    job_runs = import_module("runner.tracking.job_runs")
    exchange(job_runs.JobRun, "wait_until_started", "mlflow")
    if (beside := sys.modules.get("runner.tracking.tracking_process")) is not None:
        exchange(beside.ForkedJobRun, "wait_until_started", "mlflow")
    kind = import_module("runner.engines.kinds.local").LocalKind
    own = kind.import_libraries

    def import_libraries(*arguments: Any) -> None:
        own(*arguments)
        engine = import_module("runner_engine.local.engine")
        for part, names in ONCE_IMPORTED.items():
            for name in names:
                exchange(engine, name, part)
        scheduler = import_module("runner_engine.decode.scheduler").Scheduler
        exchange(scheduler, "step", "prefill and decode")

    kind.import_libraries = import_libraries
    clock()
    under_way.pop()
    try:
        entry()
    finally:
        clock()
        with open(into, "w", encoding="utf-8") as file:
            json.dump(seconds, file)


if __name__ == "__main__":
    main()

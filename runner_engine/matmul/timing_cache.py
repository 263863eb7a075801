"""Caches backend timings next to the compiled kernels.

So timing noise never changes the backend of a later job.

There is one file per kind of machine, processor, torch version and kernel source. Of processes that
start together one measures, and the others wait and read its result.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import torch

from runner_base import lock_file, machine
from runner_base.processor import parse_disabled_cpu_features
from runner_base.user_cache import read_cache_file, write_cache_file
from runner_engine.kernels import building
from runner_engine.kernels.native import Kernels
from runner_engine.matmul.interleaved_timing import (
    BackendTimings,
    MatmulBuilders,
    Shape,
    shrink_shape_for_timing,
    time_matmuls,
)

log = logging.getLogger(__name__)

MAX_SECONDS = 0.2  # then each way has one turn, so that all of it takes about 0.3 s
LOCK = "products.lock"


def load_layer_timings(
    backends: MatmulBuilders,
    shapes: Sequence[Shape],
    batch_sizes: Sequence[int],
    dtype: torch.dtype,
    kernels: Kernels,
) -> dict[Shape, BackendTimings] | None:
    """Return the seconds that each backend takes for layers of these shapes.

    Measures timings that are not cached.

    None if nothing can be stored, because fresh measurements for each job would change its answers.
    """
    keys = _build_timing_keys(shapes, dtype)
    samples = {key: shape for shape, key in keys.items()}

    def measure_key(key: str, deadline: float) -> BackendTimings:
        return time_matmuls(backends, samples[key], batch_sizes, dtype, deadline)

    known = load_or_measure_timings(list(samples), list(backends), batch_sizes, kernels, measure_key)
    if known is None:
        return None
    whole = {shape: shape[0] / shrink_shape_for_timing(shape)[0] for shape in shapes}
    return {
        shape: {
            way: {count: took * whole[shape] for count, took in known[key][way].items()} for way in backends
        }
        for shape, key in keys.items()
    }


def load_or_measure_timings(
    timing_keys: Sequence[str],
    backends: Sequence[str],
    batch_sizes: Sequence[int],
    kernels: Kernels,
    measure_timings: Callable[[str, float], BackendTimings],
    max_seconds: float = MAX_SECONDS,
) -> dict[str, BackendTimings] | None:
    """Return the seconds of each backend for each timing key.

    Missing timings are measured until a deadline and then cached.

    None if nothing can be stored.
    """
    file = _find_timing_file(kernels)
    if file is None:
        return None
    known = _read_timings(file)
    if any(_is_timing_missing(known, key, backends, batch_sizes) for key in timing_keys):
        with ExitStack() as locked:
            with suppress(OSError):  # some network disks have no locks: then the last one's measurement stays
                locked.enter_context(lock_file(file.with_name(LOCK)))
            known = _read_timings(file)  # perhaps somebody has measured while this process waited
            missing = [key for key in timing_keys if _is_timing_missing(known, key, backends, batch_sizes)]
            started = time.thread_time()
            for key in missing:
                known[key] = known.get(key, {}) | measure_timings(key, started + max_seconds)
            log.info("measured %s in %.2f s", "; ".join(missing), time.thread_time() - started)
            if not write_cache_file(file, {"seconds": known}):
                return None
    return known


def _build_timing_keys(shapes: Sequence[Shape], dtype: torch.dtype) -> dict[Shape, str]:
    """Return the timing key for each layer shape.

    The key names the smaller sample shape that is timed.
    """
    name = str(dtype).removeprefix("torch.")
    return {shape: "{} x {}, {}".format(*shrink_shape_for_timing(shape), name) for shape in shapes}


def _is_timing_missing(
    known_timings: Mapping[str, BackendTimings], key: str, backends: Iterable[str], batch_sizes: Sequence[int]
) -> bool:
    return any(
        count not in known_timings.get(key, {}).get(way, {}) for way in backends for count in batch_sizes
    )


def _read_timings(path: Path) -> dict[str, BackendTimings]:
    """Read the cached timings.

    Returns an empty dictionary if the file is missing or damaged.
    """
    try:
        return {
            key: {
                way: {int(count): _require_positive_seconds(took) for count, took in times.items()}
                for way, times in seconds.items()
            }
            for key, seconds in read_cache_file(path).get("seconds", {}).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        log.info("%s is damaged, so matmul timings are measured again: %s", path, error)
        return {}


def _require_positive_seconds(seconds: float) -> float:
    if not 0 < float(seconds) < math.inf:
        raise ValueError(f"{seconds} is no time")
    return float(seconds)


def _find_timing_file(kernels: Kernels) -> Path | None:
    """Return the timing file for these kernels and this type of machine, or None if it cannot be written."""
    folder = building.find_timing_folder(kernels.file)
    if not kernels.is_kept:
        return None
    parts = (
        building.parse_build_key(kernels.file),
        machine.describe_hardware(),
        machine.library_versions()["torch"],
        *parse_disabled_cpu_features(),
    )
    return folder / f"products-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"

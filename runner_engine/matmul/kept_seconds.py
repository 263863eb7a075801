"""What was measured of the ways to compute the same, kept beside the kernels: noise gives no later
job another way.

The file of what was measured is one for each kind of machine, processor, version of torch and
source of the kernels. Of processes that begin together one measures, and the others wait for it and
read.
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

from runner_base import hold, machine
from runner_base.kept import keep, read
from runner_base.processor import left_out
from runner_engine.kernels import building
from runner_engine.kernels.native import Kernels
from runner_engine.matmul.measured import Seconds, Shape, Ways, measure, sample_of

log = logging.getLogger(__name__)

MAX_SECONDS = 0.2  # then each way has one turn, so that all of it takes about 0.3 s
LOCK = "products.lock"


def kept_seconds(
    ways: Ways, shapes: Sequence[Shape], rows: Sequence[int], dtype: torch.dtype, kernels: Kernels
) -> dict[Shape, Seconds] | None:
    """Return the seconds of each way for layers of these shapes, measured where they are not known.

    None where nothing can be kept: a measurement that is made anew for each job would make answers
    differ.
    """
    keys = _keys(shapes, dtype)
    samples = {key: shape for shape, key in keys.items()}

    def measured(key: str, deadline: float) -> Seconds:
        return measure(ways, samples[key], rows, dtype, deadline)

    known = kept(list(samples), list(ways), rows, kernels, measured)
    if known is None:
        return None
    whole = {shape: shape[0] / sample_of(shape)[0] for shape in shapes}
    return {
        shape: {way: {count: took * whole[shape] for count, took in known[key][way].items()} for way in ways}
        for shape, key in keys.items()
    }


def kept(
    keys: Sequence[str],
    ways: Sequence[str],
    rows: Sequence[int],
    kernels: Kernels,
    measured: Callable[[str, float], Seconds],
    seconds: float = MAX_SECONDS,
) -> dict[str, Seconds] | None:
    """Return the seconds of each way for each key; what is not known is `measured` for its key,
    until a deadline.

    None where nothing can be kept.
    """
    file = _file(kernels)
    if file is None:
        return None
    known = _read(file)
    if any(_is_missing(known, key, ways, rows) for key in keys):
        with ExitStack() as locked:
            with suppress(OSError):  # some network disks have no locks: then the last one's measurement stays
                locked.enter_context(hold(file.with_name(LOCK)))
            known = _read(file)  # perhaps somebody has measured while this process waited
            missing = [key for key in keys if _is_missing(known, key, ways, rows)]
            started = time.thread_time()
            for key in missing:
                known[key] = known.get(key, {}) | measured(key, started + seconds)
            log.info("measured %s in %.2f s", "; ".join(missing), time.thread_time() - started)
            if not keep(file, {"seconds": known}):
                return None
    return known


def _keys(shapes: Sequence[Shape], dtype: torch.dtype) -> dict[Shape, str]:
    """Name what is measured for each layer: a sample of it."""
    name = str(dtype).removeprefix("torch.")
    return {shape: "{} x {}, {}".format(*sample_of(shape), name) for shape in shapes}


def _is_missing(known: Mapping[str, Seconds], key: str, ways: Iterable[str], rows: Sequence[int]) -> bool:
    return any(count not in known.get(key, {}).get(way, {}) for way in ways for count in rows)


def _read(file: Path) -> dict[str, Seconds]:
    """Return what the file holds; nothing where there is none or it is damaged, so that it is
    measured again."""
    try:
        return {
            key: {
                way: {int(count): _positive(took) for count, took in times.items()}
                for way, times in seconds.items()
            }
            for key, seconds in read(file).get("seconds", {}).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        log.info("%s is damaged, so products are measured again: %s", file, error)
        return {}


def _positive(took: float) -> float:
    if not 0 < float(took) < math.inf:
        raise ValueError(f"{took} is no time")
    return float(took)


def _file(kernels: Kernels) -> Path | None:
    """Return where measurements of this library on this kind of machine are kept; None if they
    cannot be."""
    folder = building.folder_of(kernels.file)
    if not kernels.is_kept:
        return None
    parts = (building.key_of(kernels.file), machine.name(), machine.versions()["torch"], *left_out())
    return folder / f"products-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"

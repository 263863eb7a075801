"""Seconds of products, and of attention to shared keys, on this machine: measured once and kept beside the kernels.

The file is one for each kind of machine, processor, version of torch and source of the kernels. Of processes that begin
together one measures, and the others wait for it and read.

Counted is the processor time of one thread and not the time that passes: what is measured is kept, and on a busy
machine, two threads that wait for each other can make the fastest way look a hundred times as slow.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from runner.core import machine
from runner.core.files import hold
from runner.core.kept import keep, read
from runner.core.processor import left_out
from runner.engines.local.kernels import building
from runner.engines.local.kernels.native import Kernels
from runner.engines.local.matmul.onednn import Product

log = logging.getLogger(__name__)

SAMPLE_WEIGHTS = 2**19  # of a larger layer some outputs are multiplied, and the time counts for all
TURNS = 3  # the fastest counts; the first only if there is no other
SLOW = 4.0  # a way that takes so many times as long as the fastest is not measured with more rows
MAX_SECONDS = 0.2  # then each way has one turn, so that all of it takes about 0.3 s
LOCK = "products.lock"

Shape = tuple[int, int]  # outputs and inputs of a layer
Ways = dict[str, Callable[[torch.Tensor], Product]]
Seconds = dict[str, dict[int, float]]  # way → number of rows → seconds


def kept_seconds(
    ways: Ways, shapes: Sequence[Shape], rows: Sequence[int], dtype: torch.dtype, kernels: Kernels
) -> dict[Shape, Seconds] | None:
    """Return the seconds of each way for layers of these shapes, measured where they are not known.

    None where nothing can be kept: a measurement that is made anew for each job would make answers differ.
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
    """Return the seconds of each way for each key; what is not known is `measured` for its key, until a deadline.

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


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let products use one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
@torch.inference_mode()
def measure(
    ways: Ways, shape: Shape, rows: Sequence[int], dtype: torch.dtype, deadline: float, slow: float = SLOW
) -> Seconds:
    """Return the seconds of a sample of a layer by each way, on one thread; the ways take turns."""
    random = torch.Generator().manual_seed(0)  # the job's own random numbers stay as they are
    weight = torch.randn(*sample_of(shape), generator=random).to(dtype)
    inputs = {count: torch.randn(count, shape[1], generator=random).to(dtype) for count in sorted(rows)}
    return by_turns({name: make(weight) for name, make in ways.items()}, inputs, deadline, slow)


@_one_thread()
@torch.inference_mode()
def by_turns(
    ways: Mapping[str, Callable[[torch.Tensor], Any]],
    inputs: Mapping[int, torch.Tensor],
    deadline: float,
    slow: float = SLOW,
) -> Seconds:
    """Return the seconds of each way with each input, by its number of rows, on one thread; the ways take turns."""
    products = dict(ways)
    took: Seconds = {name: {} for name in ways}
    for count, x in inputs.items():
        times: dict[str, list[float]] = {name: [] for name in products}
        for turn in range(TURNS):
            if turn and time.thread_time() > deadline:
                break
            for name, product in products.items():
                started = time.thread_time()
                product(x)
                times[name].append(time.thread_time() - started)
        for name in ways:
            before = took[name]
            took[name][count] = (
                min(times[name][1:] or times[name]) if name in times else before[max(before)] * count / max(before)
            )
        fastest = min(took[name][count] for name in products)
        products = {name: product for name, product in products.items() if took[name][count] <= slow * fastest}
    return took


def sample_of(shape: Shape) -> Shape:
    """Return the part of a layer that is multiplied: all inputs, and whole panels of outputs."""
    outputs, inputs = shape
    return min(outputs, max(64, SAMPLE_WEIGHTS // inputs // 64 * 64)), inputs


def _keys(shapes: Sequence[Shape], dtype: torch.dtype) -> dict[Shape, str]:
    """Name what is measured for each layer: a sample of it."""
    name = str(dtype).removeprefix("torch.")
    return {shape: "{} x {}, {}".format(*sample_of(shape), name) for shape in shapes}


def _is_missing(known: Mapping[str, Seconds], key: str, ways: Iterable[str], rows: Sequence[int]) -> bool:
    return any(count not in known.get(key, {}).get(way, {}) for way in ways for count in rows)


def _read(file: Path) -> dict[str, Seconds]:
    """Return what the file holds; nothing where there is none or it is damaged, so that it is measured again."""
    try:
        return {
            key: {way: {int(count): _positive(took) for count, took in times.items()} for way, times in seconds.items()}
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
    """Return where measurements of this library on this kind of machine are kept; None if they cannot be."""
    folder = building.folder_of(kernels.file)
    if not kernels.is_kept:
        return None
    parts = (building.key_of(kernels.file), machine.name(), machine.versions()["torch"], *left_out())
    return folder / f"products-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"

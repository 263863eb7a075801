"""Which of several ways to compute the same is the fastest on this machine: of products, and of attention.

Processors differ: an instruction has full rate on one maker's cores and a fraction of it on another's. So the ways that
are here are tried beside a reference, measured once and kept beside the kernels, so that noise on a busy machine cannot
give a later job another way, whose sums differ in their last bits. A variable may force one of them.

A row's result must not depend on how many rows go along. Tiles (AMX) and vectors in their order may be mixed by the
number of rows, because they sum bit for bit alike; every other way serves any number of rows.

The file of what was measured is one for each kind of machine, processor, version of torch and source of the kernels.
Of processes that begin together one measures, and the others wait for it and read.

Counted is the processor time of one thread and not the time that passes: what is measured is kept, and on a busy
machine, two threads that wait for each other can make the fastest way look a hundred times as slow.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runner_base import ConfigError, hold, machine
from runner_base.kept import keep, read
from runner_base.processor import left_out
from runner_engine.kernels import building
from runner_engine.kernels.native import Kernels
from runner_engine.matmul.onednn import Product
from runner_engine.matmul.panels import NO_TILES

log = logging.getLogger(__name__)

SAMPLE_WEIGHTS = 2**19  # of a larger layer some outputs are multiplied, and the time counts for all
TURNS = 3  # the fastest counts; the first only if there is no other
SLOW = 4.0  # a way that takes so many times as long as the fastest is not measured with more rows
MAX_SECONDS = 0.2  # then each way has one turn, so that all of it takes about 0.3 s
LOCK = "products.lock"
TILES = "tiles"
TIE = 1.1  # a way that is faster by less does not take the place of an earlier one
UNKEPT = "not measured, since no folder keeps it"

Shape = tuple[int, int]  # outputs and inputs of a layer
Ways = dict[str, Callable[[torch.Tensor], Product]]
Seconds = dict[str, dict[int, float]]  # way → number of rows → seconds


def _no_trial() -> str:
    return ""


@dataclass(frozen=True)
class Candidate:
    """One way to compute the same."""

    name: str
    words: Callable[[int], str]  # for a job's facts, by the rows from which on tiles are used
    missing: str = ""  # why it is not here
    trial: Callable[[], str] = _no_trial  # says how its results differ from the reference; empty: only by rounding


@dataclass(frozen=True)
class Choice:
    """The way that is used, in words for a job's facts."""

    way: str
    fact: str
    tile_rows: int = 0  # of tiles: from so many rows on they are used, vectors below
    note: str = ""  # a way that was requested and is missing, or that computes something else
    is_free: bool = True  # and not forced, neither by a variable nor by too little memory


def autotune(
    candidates: Sequence[Candidate],
    variable: str,
    wanted: str | None,
    measured: Callable[[list[str]], Seconds | None],
    fastest: Callable[[Seconds], tuple[str, int]],
    fewest_tile_rows: int,
    whose: str = "",
    remark: str = "",
) -> Choice:
    """Return the way to use: the one that a variable forces, the only one that works here, or the fastest.

    measured: the seconds of some ways; None where they cannot be kept, so that the first one is used. fastest: a way
    and its tile_rows, from seconds. fewest_tile_rows: where nothing is measured. whose: of what a way is left out, in a
    note. remark: for the facts.
    """
    names = [one.name for one in candidates]
    considered = candidates[names.index(wanted) if wanted else 0 :]
    differences = {one.name: "" if one.missing else one.trial() for one in considered}
    usable = {one.name: one for one in considered if not one.missing and not differences[one.name]}
    wrong = "; ".join(f"{name} left out{whose}: {how}" for name, how in differences.items() if how)
    best = next(iter(usable))
    tile_rows, why, note = fewest_tile_rows if best == TILES else 0, wrong, wrong
    if wanted:
        problem = differences[wanted] or considered[0].missing
        why = f"{variable}={wanted}: {problem}" if problem else f"by {variable}"
        note = why if problem else wrong
    elif len(usable) > 1:
        took = measured(list(usable))
        if took is None:
            why = UNKEPT
        else:
            best, tile_rows = fastest(took)
    words, remarks = usable[best].words(tile_rows), "; ".join(part for part in (why, remark) if part)
    return Choice(best, f"{words} ({remarks})" if remarks else words, tile_rows, note, is_free=not wanted)


def requested_way(variable: str, ways: Sequence[str]) -> str | None:
    """Return the way that a variable forces; ConfigError where it is none."""
    text = os.environ.get(variable, "")
    if text and text not in ways:
        raise ConfigError(f"{variable}={text}: choose one of {', '.join(ways)}, or leave it away to have the fastest")
    return text or None


def fastest_way(
    took: Seconds,
    in_order: str,
    passes: Mapping[int, int],
    advantage: Callable[[str, str], float],
    most_tile_rows: int | None = None,
) -> tuple[str, int]:
    """Return the way that is the fastest over some passes, by their numbers of rows, and its tile_rows.

    in_order: what is measured of vectors in the order of tiles. advantage: by how much a way has to be faster to take
    the place of another one.
    """
    expected, tile_rows = dict(took), 0
    if TILES in took:
        tiles, vectors = took[TILES], expected.pop(in_order)
        tile_rows = fewest_faster_rows(tiles, vectors, sorted(tiles), NO_TILES, most_tile_rows)
        expected[TILES] = {count: min(tiles[count], vectors[count]) for count in tiles}
    total = {way: sum(by_rows[count] * times for count, times in passes.items()) for way, by_rows in expected.items()}
    best = next(iter(total))
    for way in total:
        if way != best and total[best] > total[way] * advantage(best, way):
            best = way
    return best, tile_rows if best == TILES else 0


def words_of_tiles(tile_rows: int, vectors: str, by: str = "") -> str:
    """Say how many rows go by tiles."""
    if tile_rows == NO_TILES:
        return f"in the order of tiles, {by}{vectors}"
    return f"tiles from {tile_rows} rows, {vectors} below"


def fewest_faster_rows(
    tiles: Mapping[int, float],
    vectors: Mapping[int, float],
    rows: Sequence[int],
    otherwise: int,
    most: int | None = None,
) -> int:
    """Return the fewest of the numbers of rows from which on tiles are faster; `otherwise` if there is none.

    most: no larger number is returned.
    """
    found = (few for few in rows if all(tiles[more] < vectors[more] for more in rows if more >= few))
    return next((few for few in found if most is None or few <= most), otherwise)


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

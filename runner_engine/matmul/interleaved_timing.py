"""Times several backends on one thread, in alternating runs.

Measured is the processor time of one thread, not wall time: timings are stored, and on a busy
machine two threads that wait for each other can make the fastest backend look a hundred times
slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from runner_engine.matmul.onednn import MatmulFunction

SAMPLE_WEIGHTS = 2**19  # of a larger layer some outputs are multiplied, and the time counts for all
TURNS = 3  # the fastest counts; the first only if there is no other
SLOW = 4.0  # a way that takes so many times as long as the fastest is not measured with more rows

Shape = tuple[int, int]  # outputs and inputs of a layer
MatmulBuilders = dict[str, Callable[[torch.Tensor], MatmulFunction]]
BackendTimings = dict[str, dict[int, float]]  # way → number of rows → seconds


@contextmanager
def _use_single_torch_thread() -> Iterator[None]:
    """Context manager in which torch uses one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_use_single_torch_thread()
@torch.inference_mode()
def time_matmuls(
    backends: MatmulBuilders,
    shape: Shape,
    batch_sizes: Sequence[int],
    dtype: torch.dtype,
    deadline: float,
    slow_factor: float = SLOW,
) -> BackendTimings:
    """Time each backend on a sample of a layer, by batch size.

    Returns seconds. The backends run alternately on one thread.
    """
    random = torch.Generator().manual_seed(0)  # the job's own random numbers stay as they are
    weight = torch.randn(*shrink_shape_for_timing(shape), generator=random, dtype=torch.float32).to(dtype)
    inputs = {
        count: torch.randn(count, shape[1], generator=random, dtype=torch.float32).to(dtype)
        for count in sorted(batch_sizes)
    }
    return time_backends_alternately(
        {name: make(weight) for name, make in backends.items()}, inputs, deadline, slow_factor
    )


@_use_single_torch_thread()
@torch.inference_mode()
def time_backends_alternately(
    backends: Mapping[str, Callable[[torch.Tensor], Any]],
    inputs_by_batch_size: Mapping[int, torch.Tensor],
    deadline: float,
    slow_factor: float = SLOW,
) -> BackendTimings:
    """Time each backend on each input, by batch size.

    Returns seconds. The backends run alternately on one thread.
    """
    products = dict(backends)
    took: BackendTimings = {name: {} for name in backends}
    for count, x in inputs_by_batch_size.items():
        times: dict[str, list[float]] = {name: [] for name in products}
        for turn in range(TURNS):
            if turn and time.thread_time() > deadline:
                break
            for name, product in products.items():
                started = time.thread_time()
                product(x)
                times[name].append(time.thread_time() - started)
        for name in backends:
            before = took[name]
            took[name][count] = (
                min(times[name][1:] or times[name])
                if name in times
                else before[max(before)] * count / max(before)
            )
        fastest = min(took[name][count] for name in products)
        products = {
            name: product for name, product in products.items() if took[name][count] <= slow_factor * fastest
        }
    return took


def shrink_shape_for_timing(shape: Shape) -> Shape:
    """Return the shape of the part of a layer that is timed: all input columns, some output rows."""
    outputs, inputs = shape
    return min(outputs, max(64, SAMPLE_WEIGHTS // inputs // 64 * 64)), inputs

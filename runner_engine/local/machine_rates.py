"""Measures the matmul speed and memory bandwidth of this machine."""

from __future__ import annotations

import mmap
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runner_base import MIB, machine
from runner_engine.checkpoints.kv_size import compute_kv_size
from runner_engine.checkpoints.mixture import COUNTS, MixtureSize
from runner_engine.kernels import native
from runner_engine.matmul import PlainPackedWeights, build_onednn_matmul, can_pack_weight, find_onednn_problem
from runner_engine.models.base_loading import LoadedModel
from runner_engine.sessions import HardwareRates, ModelArithmetic
from runner_engine.settings.kv_cache import KvCache

ROWS = 512
LARGE = 2048  # of a square matrix: so large that the overhead of a call does not count
MAX_FLOP = 1e10  # of the products of one round
# many times the size of the caches; on a CPU at most, as far as the size of its caches is known
READ_MIB = {"cpu": 256, "cuda": 2048}
LEAST_READ_MIB, TIMES_CACHES = 64, 4
CPU_FOLDER = Path("/sys/devices/system/cpu")
TRIES = 2  # the fastest counts


def count_flop_and_bytes_per_token(
    loaded: LoadedModel, kv_cache: KvCache, mixture_size: MixtureSize | None = None
) -> ModelArithmetic | None:
    """Count the FLOP and bytes that the model needs per token.

    Returns None if the model's dimensions or the use of its experts are unknown.

    Weights are counted once, even if the engine has a copy in its own layout. mixture_size: the
    model's experts, if any. Their share of the blocks' bytes is assumed to equal their share
    of the parameters.
    """
    model, settings = loaded.model, loaded.model.config.get_text_config()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if (
        head is None
        or embedding is None
        or (mixture_size is None and any(getattr(settings, key, None) for key in COUNTS))
    ):
        return None
    try:
        layers, heads = settings.num_hidden_layers, settings.num_attention_heads
        dim = getattr(settings, "head_dim", None) or settings.hidden_size // heads
    except AttributeError:
        return None
    is_tied = head.weight is embedding.weight
    head_parameters = settings.vocab_size * settings.hidden_size
    beside = embedding.weight.numel() + (0 if is_tied else head_parameters)
    # without the head: its product with a large vocabulary would take longer than all others
    linear = (module for module in model.modules() if type(module) is nn.Linear and module is not head)
    shapes = Counter((one.out_features, one.in_features) for one in linear)
    dtype: torch.dtype = model.dtype
    unused = 0 if mixture_size is None else mixture_size.parameters - mixture_size.active_parameters
    weight_bytes = int(loaded.metrics["weight_mib"] * MIB) - (0 if is_tied else embedding.weight.nbytes)
    expert_bytes = (
        0 if mixture_size is None else int((weight_bytes - head.weight.nbytes) * mixture_size.routed_share)
    )
    return ModelArithmetic(
        layer_parameters=int(loaded.metrics["parameters"]) - beside - unused,
        head_parameters=head_parameters,
        attention_flop=4 * layers * heads * dim,  # a query with a key, and a weight with a value
        weight_bytes=weight_bytes,
        kv_bytes=compute_kv_size(settings.to_dict(), dtype.itemsize, kv_cache).token_bytes,
        dtype=str(dtype).removeprefix("torch."),
        measure=partial(measure_machine_rates, list(shapes), dtype, loaded.device),
        expert_bytes=expert_bytes,
        touched=None if mixture_size is None else mixture_size.estimate_used_expert_fraction,
    )


def measure_machine_rates(
    matmul_shapes: Iterable[tuple[int, int]], dtype: torch.dtype, device: torch.device
) -> HardwareRates:
    """Measure the speed of matmuls with the given shapes, and of a large square matmul.

    Also measures the memory read bandwidth.
    """
    once = Counter(set(matmul_shapes))
    parameters = sum(out * into for out, into in once)
    rows = int(min(ROWS, max(MAX_FLOP / (2 * max(parameters, 1)), ROWS // 4)))
    large = measure_matmul_gflop_per_s(Counter([(LARGE, LARGE)]), dtype, ROWS, TRIES, device)
    own = measure_matmul_gflop_per_s(once, dtype, rows, TRIES, device) if once else {}
    rates = HardwareRates(max([*large.values(), *own.values()]), measure_memory_read_gb_per_s(device))
    machine.release_free_memory()  # the matrices
    return rates


@torch.inference_mode()
def measure_matmul_gflop_per_s(
    count_by_shape: Counter[tuple[int, int]],
    dtype: torch.dtype,
    num_activations: int,
    num_tries: int,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - a value
) -> dict[str, float]:
    """Measure the GFLOP/s of matmuls with the given shapes, for each matmul backend.

    Backends are plain torch and, on a CPU, packed tiles and oneDNN's order.
    """
    flop, seconds = 0.0, {"plain": 0.0}
    kernels = native.load_kernels() if device.type == "cpu" else None
    if kernels is not None and all(
        can_pack_weight(torch.empty(0, into, dtype=dtype), kernels) for _, into in count_by_shape
    ):
        seconds["panels"] = 0.0
        if dtype == torch.bfloat16 and not kernels.tile_kernel_problem:
            seconds["tiles"] = 0.0
    if device.type == "cpu" and not find_onednn_problem(dtype):
        seconds["packed"] = 0.0
    for (out, into), count in count_by_shape.items():
        rows = torch.randn(num_activations, into, dtype=dtype, device=device)
        weight = torch.randn(out, into, dtype=dtype, device=device)
        flop += 2.0 * num_activations * out * into * count
        for name in seconds:
            product: Callable[[], Any] = partial(nn.functional.linear, rows, weight)
            if name in ("panels", "tiles") and kernels is not None:
                product = partial(
                    PlainPackedWeights.pack(weight, None, kernels, int(name == "tiles")).matmul, rows
                )
            elif name == "packed":
                product = partial(build_onednn_matmul(weight, None), rows)
            seconds[name] += _measure_fastest_run_s(product, num_tries, device) * count
    return {name: flop / took / 1e9 for name, took in seconds.items()}


@torch.inference_mode()
def measure_memory_read_gb_per_s(device: torch.device) -> float:
    """Measure the bandwidth of sequential memory reads in GB/s.

    Two operations are tried, and the faster one counts.
    """
    size = (choose_cpu_bandwidth_test_mib() if device.type == "cpu" else READ_MIB[device.type]) * MIB
    if (
        device.type == "cpu"
    ):  # not from the allocator: this much memory would change the addresses of later tensors
        with mmap.mmap(-1, size) as room:
            numbers = torch.frombuffer(room, dtype=torch.float32)
            numbers.fill_(1.0)  # all pages that were never written are one and the same
            rate = _measure_read_gb_per_s(numbers, device)
            del numbers
        return rate
    return _measure_read_gb_per_s(torch.ones(size // 4, device=device, dtype=torch.float32), device)


def choose_cpu_bandwidth_test_mib(folder: Path = CPU_FOLDER) -> int:
    """Return how many MiB to read for a bandwidth: four times the last caches of all cores.

    Reading more gives the same bandwidth, and is memory that a job with this model does not need.
    """
    try:
        caches = {
            (place / "shared_cpu_list").read_text(): int(
                (place / "size").read_text().strip().removesuffix("K")
            )
            for place in folder.glob("cpu[0-9]*/cache/index3")
        }
    except (OSError, ValueError):
        caches = {}
    if not caches:
        return READ_MIB["cpu"]
    return min(READ_MIB["cpu"], max(LEAST_READ_MIB, TIMES_CACHES * sum(caches.values()) // 1024))


def _measure_read_gb_per_s(values: torch.Tensor, device: torch.device) -> float:
    matrix = values.view(-1, 8192)
    vector = torch.ones(8192, device=device, dtype=torch.float32)
    took = min(
        _measure_fastest_run_s(values.sum, TRIES, device),
        _measure_fastest_run_s(partial(torch.mv, matrix, vector), TRIES, device),
    )
    return values.nbytes / took / 1e9


def _measure_fastest_run_s(operation: Callable[[], Any], num_tries: int, device: torch.device) -> float:
    """Run an operation several times after a warm-up run. Returns the seconds of the fastest run."""
    times = []
    for _ in range(num_tries + 1):
        started = time.perf_counter()
        operation()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])

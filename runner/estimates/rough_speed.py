"""Rough estimate of a model's speed from the machine's memory bandwidth and FLOP/s, without
running the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import median

from runner.config.root import RunnerConfig
from runner.estimates.speed import EstimateBasis, Speed
from runner_base import BYTES, MIB, machine, user_cache
from runner_engine import Footprint, QuantizationConfig
from runner_engine.checkpoints import PREFILL_TOKENS

VERSION = 1  # raise it when the measurement changes
SPREAD = 0.6  # relative uncertainty of a guess
# Memory traffic of unpacking weights in each pass, as a share of their size in 16 bits.
UNPACKED = {"cpu": {"int8": 1.0, "nf4": 1.5, "fp4": 1.5}, "cuda": {"int8": 2.0, "nf4": 0.5, "fp4": 0.5}}
READ_GB_S = 1.0  # reading a checkpoint from a disk
QUANTIZED_GB_S = 0.5  # quantizing a checkpoint
STEP_S = {"cpu": 0.001, "cuda": 0.015}  # per step, for any model: Python and kernel launches
IMPORT_S = 5.0
# Of merging an adapter, as measured with PEFT 0.21 on Zen 3 (tests/estimates/test_merging.py):
MERGED_LAYER_S = 0.02  # PEFT's own work for a layer that an adapter changes
MOVED = 12  # times that each number of such a layer is read or written in float32
AGAIN_GB_S = 0.05  # unpacking codes, and quantizing them again
TRIES = 7  # 0.1 s in all; the median, so that other work counts as it will beside the job
ROWS = (1, 8, 32, 128, 512)
NUMBERS = 1 << 24  # of the two vectors that are multiplied here
# Products of small matrices run in one thread: with several, numpy's wait for each other where
# anything else runs.
PRODUCTS, SIDE = 200, 64


@dataclass(frozen=True)
class MachineRates:
    """A machine's memory bandwidth in bytes/s and its matmul rate in FLOP/s."""

    device: str
    bytes_per_s: float
    flops_per_s: float
    unpacks: bool = True  # whether quantized weights are unpacked in each pass: our own kernels do not

    def estimate_speed(
        self,
        quantization: QuantizationConfig,
        predicted_footprint: Footprint,
        num_parameters: float,
        kv_bytes_per_token: int,
    ) -> Speed:
        """Estimate a model's speed from the bytes and the matmuls of a forward pass.

        Of a mixture's experts, a pass reads those that its tokens use, and each token passes through a
        few.
        """
        mixture = predicted_footprint.mixture
        unpacked = UNPACKED[self.device].get(quantization.name, 0.0) * self.unpacks
        weights_s = (predicted_footprint.weight_mib * MIB + unpacked * 2 * num_parameters) / self.bytes_per_s
        active = (
            num_parameters
            if mixture is None
            else num_parameters * mixture.active_parameters / mixture.parameters
        )
        in_blocks = predicted_footprint.weight_mib * MIB - sum(
            predicted_footprint.weights.get(part, 0) for part in ("embedding", "head")
        )
        experts_s = 0.0 if mixture is None else mixture.routed_share * in_blocks / self.bytes_per_s

        def pass_s(num_tokens: float) -> float:
            unused_s = (
                0.0
                if mixture is None
                else experts_s * (1 - mixture.estimate_used_expert_fraction(num_tokens))
            )
            return STEP_S[self.device] + max(weights_s - unused_s, 2 * active * num_tokens / self.flops_per_s)

        stored_gb = 2 * num_parameters / 1e9
        load_s = stored_gb / READ_GB_S + (stored_gb / QUANTIZED_GB_S if quantization.packed else 0.0)
        tokens = PREFILL_TOKENS[self.device]
        return Speed(
            prefill=[(float(size), pass_s(size)) for size in (8, 64, tokens)],
            decode=[(float(rows), pass_s(rows)) for rows in ROWS],
            place_s=kv_bytes_per_token / self.bytes_per_s,
            load_s=load_s,
            merge_s=self.estimate_adapter_merge_s(predicted_footprint),
            import_s=IMPORT_S,
            pass_tokens=tokens,
            source=EstimateBasis.guessed,
            spread=SPREAD,
        )

    def estimate_adapter_merge_s(self, predicted_footprint: Footprint) -> float:
        if (merging := predicted_footprint.merging) is None:
            return 0.0
        products_s = 2 * merging.products / self.flops_per_s
        moved_s = MOVED * merging.numbers * BYTES["float32"] / self.bytes_per_s
        again_s = 2 * merging.numbers / 1e9 / AGAIN_GB_S * merging.dequantizes
        return merging.layers * MERGED_LAYER_S + products_s + moved_s + again_s


def measure_machine_rates(config: RunnerConfig, device: str, dtype_bytes: int) -> MachineRates | None:
    """Return the machine's bandwidth and matmul speed. None on a GPU."""
    if device != "cpu":
        return None
    bytes_per_s, core_flops_per_s = _load_or_measure_machine_rates()
    flops_per_s = core_flops_per_s * machine.count_available_cpu_cores()
    return MachineRates(device, bytes_per_s, flops_per_s, unpacks=not config.mix.has_kernels(dtype_bytes))


@cache
def _load_or_measure_machine_rates() -> tuple[float, float]:
    """Return bytes/s and FLOP/s from the user cache, or measure both once.

    If other programs slowed the measurement down, it is repeated until they do not.
    """
    file = user_cache.get_cache_file("rates", [VERSION, machine.describe_machine()])
    found = user_cache.read_cache_file(file) if file is not None else {}
    contention = machine.Contention(is_job=False)
    if not found or found["is_busy"]:
        bytes_per_s, flops_per_s = _measure_memory_and_matmul_rates()
        is_busy = bool(contention.describe_load_by_other_programs())
        if not found or not is_busy:
            found = {"bytes_per_s": bytes_per_s, "flops_per_s": flops_per_s, "is_busy": is_busy}
            if file is not None:
                user_cache.write_cache_file(file, found)
    return float(found["bytes_per_s"]), float(found["flops_per_s"])


def _measure_memory_and_matmul_rates() -> tuple[float, float]:
    import numpy as np  # takes 0.1 s to import

    numbers, matrices = np.ones(NUMBERS, np.float32), np.ones((PRODUCTS, SIDE, SIDE), np.float32)
    read_s = median(_time_call_s(lambda: np.dot(numbers, numbers)) for _ in range(TRIES))
    product_s = median(_time_call_s(lambda: matrices @ matrices) for _ in range(TRIES)) / PRODUCTS
    return numbers.nbytes / read_s, 2 * SIDE**3 / product_s


def _time_call_s(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started

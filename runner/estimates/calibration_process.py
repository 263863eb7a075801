"""Measures a model's speed in a child process, with a few layers of random weights.

The speed of the whole model is extrapolated.

Runs as `python -m runner.estimates.calibration_process`. It reads the models pickled from
stdin, and writes one JSON line for each to stdout.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines.kinds.local import KIND
from runner.estimates.sample import LONG_PROMPT, REPEATS, ROWS, SHORT_PROMPT, STEPS, CalibrationModel
from runner.speed.synthetic import create_random_requests
from runner_base import child_process
from runner_engine import Engine, LocalModelConfig, LoraConfig, complete_requests
from runner_engine.checkpoints import random_weights, read_tensor_headers

BANDWIDTH_NUMBERS = 1 << 25  # of float32: more than a cache holds


def main() -> None:
    """Time each model from stdin, and immediately print its result as a JSON line."""
    started = time.perf_counter()
    child_process.request_kill_when_parent_dies()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)  # what libraries print must not mix with the results
        models: list[CalibrationModel] = pickle.load(sys.stdin.buffer)
        import torch

        import_s = time.perf_counter() - started
        bandwidth = measure_memory_read_bandwidth(torch)
        with tempfile.TemporaryDirectory(prefix="runner-calibration-") as scratch:
            for model in models:
                try:
                    measured = calibrate_model(model, Path(scratch), bandwidth)
                    measured["import_s"] += import_s
                except Exception as error:  # noqa: BLE001  # the plan continues without this calibration
                    measured = {"error": f"{type(error).__name__}: {error}"}
                channel.write(json.dumps({"key": model.key, "measured": measured}) + "\n")
                channel.flush()


def measure_memory_read_bandwidth(torch: Any) -> float:
    numbers, times = torch.ones(BANDWIDTH_NUMBERS), []
    for _ in range(REPEATS):
        started = time.perf_counter()
        numbers.sum()
        times.append(time.perf_counter() - started)
    return float(numbers.nbytes / min(times))


def calibrate_model(model: CalibrationModel, temp_folder: Path, bandwidth: float) -> dict[str, Any]:
    depths = model.depths
    import_s = warm_up_imports(model, temp_folder)
    many = time_calibration_model(model, depths.many, temp_folder)
    whole = dict(many)
    if missing := depths.layers - depths.many:
        few = time_calibration_model(model, depths.few, temp_folder)
        for name, seconds in many.items():
            whole[name] += missing * max(seconds - few[name], 0.0) / (depths.many - depths.few)
    more_head = (depths.vocabulary - depths.kept_vocabulary) / depths.kept_vocabulary
    prefill = [(rows * SHORT_PROMPT, f"prefill_{rows}", rows) for rows in ROWS] + [
        (LONG_PROMPT, "prefill_long", 1)
    ]
    by_tokens: dict[int, float] = {}
    for (
        tokens,
        name,
        rows,
    ) in prefill:  # if one long prompt and many short ones have equally many tokens: the mean
        seconds = whole[name] + more_head * whole[f"head_{rows}"]
        by_tokens[tokens] = (by_tokens[tokens] + seconds) / 2 if tokens in by_tokens else seconds
    return {
        "prefill": sorted(by_tokens.items()),
        "decode": [(rows, whole[f"decode_{rows}"] + more_head * many[f"head_{rows}"]) for rows in ROWS],
        "place_s": model.place_bytes / bandwidth,
        "load_s": whole["load_s"],
        "import_s": import_s,
        "limits_s": many["limits_s"],
    }


def warm_up_imports(model: CalibrationModel, temp_folder: Path) -> float:
    """Load a small model, so that later load times exclude imports. Returns the seconds spent."""
    config = build_calibration_config(
        model.config, write_calibration_checkpoint(model, model.depths.few, temp_folder), model.threads
    )
    started = time.perf_counter()
    resolved = resolve_job(config)
    KIND.import_libraries(resolved)
    from runner_engine import LocalEngine

    engine = LocalEngine(resolved.model)
    engine.load()
    engine.close()
    return time.perf_counter() - started


def write_calibration_checkpoint(model: CalibrationModel, num_layers: int, temp_folder: Path) -> Path:
    """Write a model with random weights and `num_layers` layers, and return its folder."""
    shape = model.shape | random_weights.read_special_token_ids()
    shape |= {"num_hidden_layers": num_layers, "vocab_size": model.depths.kept_vocabulary}
    shape.pop("layer_types", None)  # one for each layer
    folder = temp_folder / f"{model.name}-{num_layers}"
    if not folder.exists():
        random_weights.write_random_checkpoint(shape, folder)
    return folder


def time_calibration_model(model: CalibrationModel, num_layers: int, temp_folder: Path) -> dict[str, float]:
    """Load a model with `num_layers` layers, and return median seconds by pass (prefill, decode)."""
    from runner_engine import LocalEngine

    folder = write_calibration_checkpoint(model, num_layers, temp_folder)
    config = build_calibration_config(model.config, folder, model.threads)
    # a smaller model packs its weights if, and only if, the whole one would
    packing = {} if model.is_packed else {"packed_share": 0.0}
    engine = LocalEngine(resolve_job(config).model, None, **packing)
    try:
        engine.load()
        started = time.perf_counter()
        # tries kernels and packs weights, like every job
        list(time_batch(engine, config, 1, SHORT_PROMPT, 2, seed=0))
        times_by_name: dict[str, list[float]] = {
            "load_s": [engine.stats.load_s + time.perf_counter() - started]
        }
        for repeat in range(1, REPEATS + 1):
            for rows in ROWS:
                for name, seconds in time_batch(engine, config, rows, SHORT_PROMPT, STEPS + 1, repeat):
                    times_by_name.setdefault(f"{name}_{rows}", []).append(seconds)
                times_by_name.setdefault(f"head_{rows}", []).append(time_lm_head_matmul(engine, rows))
            name, seconds = next(time_batch(engine, config, 1, LONG_PROMPT, 2, repeat))
            times_by_name.setdefault(f"{name}_long", []).append(seconds)
        started = time.perf_counter()
        if (arithmetic := engine.arithmetic()) is not None:
            arithmetic.measure()
        times_by_name["limits_s"] = [time.perf_counter() - started]
        return {name: median(times) for name, times in times_by_name.items()}
    finally:
        engine.close()


def build_calibration_config(config: RunnerConfig, folder: Path, threads: int) -> RunnerConfig:
    model = LocalModelConfig(name=str(folder), device="auto", threads=threads, check_memory=False)
    for key in ("device", "dtype", "attention"):
        setattr(model, key, getattr(config.model, key))
    paths = [tensor.name.removesuffix(".weight") for tensor in read_tensor_headers(folder)]
    # patterns may name layers that the sample does not have
    quantization = config.mix.remove_unmatched_patterns(paths)
    return replace(config, model=model, quantization=quantization, lora=LoraConfig(), profile="none")


def time_batch(
    engine: Engine, config: RunnerConfig, batch_size: int, prompt_tokens: int, new_tokens: int, seed: int
) -> Iterator[tuple[str, float]]:
    """Run a batch, and yield the seconds of prefill and of one decode step."""
    vocabulary = int(engine.load().metrics["vocab_size"])
    requests = create_random_requests(batch_size, prompt_tokens, new_tokens, vocabulary, config.seed, seed)
    before = replace(engine.stats)
    complete_requests(engine, requests, batch_size=batch_size)
    spent = engine.stats - before
    yield "prefill", spent.prefill_s
    yield "decode", spent.decode_s / max(new_tokens - 1, 1)


def time_lm_head_matmul(engine: Any, batch_size: int) -> float:
    import torch

    head = engine.loaded.model.get_output_embeddings()
    states = torch.randn(
        batch_size, head.weight.shape[-1], dtype=head.weight.dtype, device=head.weight.device
    )
    with torch.inference_mode():
        started = time.perf_counter()
        head(states)
        if states.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


if __name__ == "__main__":
    main()

"""One run of OpenVINO GenAI in a process of its own: see engines.py. It runs in OpenVINO's
environment."""

from __future__ import annotations

import os
import random
import time

from standing_alone import answer, peak_mib, read_job, reset_peak, resident_mib


def main() -> None:
    """Run the job and write the outcome."""
    import numpy as np
    import openvino  # type: ignore[import-not-found]
    import openvino_genai as genai  # type: ignore[import-not-found]

    job = read_job()
    settings, threads = job["settings"], job["threads"] or len(os.sched_getaffinity(0))
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching, scheduler.cache_size = True, settings["cache_gib"]
    scheduler.max_num_seqs, scheduler.max_num_batched_tokens = (
        settings["max_num_seqs"],
        settings["max_tokens"],
    )
    properties = {"INFERENCE_NUM_THREADS": threads, "KV_CACHE_PRECISION": settings["kv_cache"]}
    properties["INFERENCE_PRECISION_HINT"] = settings["precision"]

    def generate(prompts: list[list[int]], limits: list[int], ignore_eos: bool) -> list[list[int]]:
        """Return the new tokens of each prompt, likeliest first choices."""
        each = []
        for limit in limits:
            each.append(genai.GenerationConfig())
            each[-1].max_new_tokens, each[-1].do_sample, each[-1].ignore_eos = (limit, False, ignore_eos)
        fed = [openvino.Tensor(np.array([ids], dtype=np.int64)) for ids in prompts]
        return [list(result.m_generation_ids[0]) for result in pipeline.generate(fed, each)]

    started = time.perf_counter()
    pipeline = genai.ContinuousBatchingPipeline(settings["folder"], scheduler, "CPU", properties)
    draw = random.Random(0)
    generate(
        [[draw.randrange(3, settings["vocabulary"]) for _ in range(64)] for _ in range(4)], [4] * 4, True
    )
    load_s, loaded_mib = time.perf_counter() - started, resident_mib()
    reset_peak()
    started = time.perf_counter()
    tokens = generate(job["prompts"], job["new_tokens"], job["fixed"])
    total_s = time.perf_counter() - started
    measured = {"load_s": load_s, "total_s": total_s, "loaded_mib": loaded_mib, "peak_mib": peak_mib()}
    answer(job, tokens, threads=threads, **measured)


if __name__ == "__main__":
    main()

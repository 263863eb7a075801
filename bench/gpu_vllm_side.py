"""vLLM's side of the speed step of gpu_all.py, with the arguments JOB.json ANSWER.json, in vLLM's environment."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
TRIES = 2


def main() -> None:
    """Measure prefill and decode as gpu_speed.py does."""
    import vllm  # type: ignore[import-not-found]

    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    started = time.perf_counter()
    longest = max(job["prefill"] + 1, job["prompt"] + job["new"] + 1)
    model = vllm.LLM(
        model=job["folder"], dtype=job["dtype"], max_model_len=longest + 16, max_num_seqs=max(job["rows"]), seed=0,
        enable_prefix_caching=False,
    )  # fmt: skip
    vocabulary = model.llm_engine.model_config.get_vocab_size()
    draw = random.Random(0)

    def measure_seconds(rows: int, tokens: int, new: int) -> float:
        prompts = [
            vllm.TokensPrompt(prompt_token_ids=draw.choices(range(vocabulary), k=tokens)) for _ in range(rows)
        ]
        sampling = vllm.SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        began = time.perf_counter()
        outputs = model.generate(prompts, sampling, use_tqdm=False)
        took_s = time.perf_counter() - began
        if any(len(output.outputs[0].token_ids) != new for output in outputs):
            raise SystemExit("vLLM has not made all tokens")
        return took_s

    measure_seconds(min(job["rows"]), job["prompt"], 4)
    load_s = time.perf_counter() - started
    rates = []
    for rows in job["rows"]:
        prefill, decode = [], []
        for _ in range(TRIES):
            prefill.append(rows * job["prefill"] / measure_seconds(rows, job["prefill"], 1))
            first_s = measure_seconds(rows, job["prompt"], 1)
            all_s = measure_seconds(rows, job["prompt"], job["new"] + 1)
            decode.append(rows * job["new"] / max(all_s - first_s, 1e-9))
        rates.append({"rows": rows, "prefill": prefill, "decode": decode})
    Path(sys.argv[2]).write_text(json.dumps({"version": vllm.__version__, "load_s": load_s, "rates": rates}))


if __name__ == "__main__":
    main()

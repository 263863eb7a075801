"""One run of vLLM on a CPU in a process of its own: see engines.py. It runs in vLLM's environment.

Loading takes longer than most runs, so a process may do several: with the first 1, 8 and 32
prompts, say. Its prefix cache is emptied before each, and the run ends with an error if the first
prompt finds anything there. As side `zentorch` it runs in an environment that has AMD's plugin,
too, and ends with an error if vLLM does not use the plugin.

With settings.url it is a client of a running server, as bare as one can be: it sends the same
requests, and reads what comes without looking at it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")  # GiB

from standing_alone import outcome_of, peak_mib, read_job, reset_peak, resident_mib, write


async def ask_server(job: dict[str, Any]) -> tuple[float, float]:
    """Send a job's requests to a server, so many at once; return the seconds, and the processor's,
    until all ended."""
    import aiohttp

    settings = job["settings"]
    slots = asyncio.Semaphore(settings["concurrency"])
    headers = {"Authorization": f"Bearer {settings['key']}"}
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)

    async def ask(ids: list[int], most: int) -> None:
        body: dict[str, Any] = {
            "model": settings["model"],
            "prompt": ids,
            "max_tokens": most,
            "temperature": 0,
        }
        body |= {"ignore_eos": True, "stream": settings["stream"]}
        body |= {"stream_options": {"include_usage": True}} if settings["stream"] else {}
        async with slots, client.post(f"{settings['url']}/completions", json=body) as answer:
            text = (await answer.read()).decode()
            last = text.rstrip().removesuffix("data: [DONE]").rstrip().rpartition("data: ")[2]
            if json.loads(last)["usage"]["completion_tokens"] != most:
                raise SystemExit(f"the server has not made {most} tokens: {last[:300]}")

    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as client:
        started, spent = time.perf_counter(), time.process_time()
        await asyncio.gather(*map(ask, job["prompts"], job["new_tokens"]))
        return time.perf_counter() - started, time.process_time() - spent


def main() -> None:
    """Run the job and write the outcome."""
    if "url" in (job := read_job())["settings"]:
        Path(sys.argv[2]).write_text(json.dumps(asyncio.run(ask_server(job))))
        return
    import torch
    from vllm import LLM, SamplingParams, TokensPrompt  # type: ignore[import-not-found]
    from vllm.platforms import current_platform  # type: ignore[import-not-found]

    uses_plugin = current_platform.is_zen_cpu() and hasattr(torch.ops.zentorch, "zentorch_linear_unary")
    if job["kind"] == "zentorch" and not uses_plugin:
        raise SystemExit(
            f"vLLM does not use zentorch here: its platform is {type(current_platform).__name__}"
        )
    settings = job["settings"]
    longest = max(map(len, job["prompts"])) + max(job["new_tokens"])
    started = time.perf_counter()
    llm = LLM(
        model=job["folder"], dtype=job["dtype"], max_model_len=longest + 16, enable_prefix_caching=True,
        max_num_seqs=settings["max_num_seqs"], max_num_batched_tokens=settings["max_num_batched_tokens"],
        enforce_eager=settings["eager"], seed=0,
    )  # fmt: skip
    vocabulary = llm.llm_engine.model_config.get_vocab_size()
    draw = random.Random(0)
    warm = [TokensPrompt(prompt_token_ids=draw.choices(range(3, vocabulary), k=64)) for _ in range(4)]
    llm.generate(warm, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True), use_tqdm=False)
    load_s, loaded_mib = time.perf_counter() - started, resident_mib()

    def run(job: dict[str, Any]) -> dict[str, Any]:
        """Answer a job's prompts with an empty prefix cache; return the outcome."""
        if not llm.reset_prefix_cache():
            raise SystemExit("vLLM's prefix cache could not be emptied")
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids in job["prompts"]]
        each = [
            SamplingParams(temperature=0, max_tokens=most, ignore_eos=job["fixed"])
            for most in job["new_tokens"]
        ]
        reset_peak()
        started = time.perf_counter()
        outputs = llm.generate(prompts, each, use_tqdm=False)
        total_s = time.perf_counter() - started
        if outputs[0].num_cached_tokens:
            raise SystemExit(
                f"{outputs[0].num_cached_tokens} tokens of the first prompt were in vLLM's prefix cache"
            )
        tokens = [list(output.outputs[0].token_ids) for output in outputs]
        measured = {"load_s": load_s, "total_s": total_s, "loaded_mib": loaded_mib, "peak_mib": peak_mib()}
        return outcome_of(job, tokens, threads=torch.get_num_threads(), **measured)

    if not job["counts"]:
        write(run(job))
    else:
        parts = ("prompts", "new_tokens")
        write([run(job | {part: job[part][:count] for part in parts}) for count in job["counts"]])


if __name__ == "__main__":
    main()

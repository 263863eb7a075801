"""llama.cpp in a process of its own, from a wheel that needs no build: its environment has only xllamacpp.

`python xllamacpp_side.py FILE THREADS ROWS` loads a file and then answers lines of JSON, {"prompts": …, "new": N}, with
the seconds of the prompts, of the new tokens, and of all. So many rows of a line run at once, each without a stop;
`new` may be a list with a number for each.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO


def opened(positions: int) -> tuple[Any, TextIO]:
    """Load FILE for ROWS sequences of so many positions; return the server, and where to write answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library writes there, too
    import xllamacpp  # type: ignore[import-not-found]

    file, threads, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_parallel, settings.n_ctx = rows, positions * rows
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(settings), answers


def main() -> None:
    """Load the file, and answer until there are no more lines."""
    server, answers = opened(positions=2048)

    def ask(prompt: list[int], new: int) -> dict[str, Any]:
        asked = {"prompt": prompt, "n_predict": new, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        answer = server.handle_completions(asked)
        answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
        timings: dict[str, Any] = answer["timings"]
        if (timings["prompt_n"], timings["predicted_n"]) != (len(prompt), new):
            raise SystemExit(f"llama.cpp computed other tokens than {len(prompt)} and {new}: {timings}")
        return timings

    print("{}", file=answers, flush=True)
    with ThreadPoolExecutor(int(sys.argv[3])) as pool:
        for line in sys.stdin:
            job, spent, started = json.loads(line), time.process_time(), time.perf_counter()
            new = job["new"] if isinstance(job["new"], list) else [job["new"]] * len(job["prompts"])
            found = list(pool.map(ask, job["prompts"], new))
            seconds = {
                of: max(one[f"{key}_ms"] for one in found) / 1000
                for of, key in (("prefill", "prompt"), ("decode", "predicted"))
            }
            seconds |= {"processor": time.process_time() - spent, "all": time.perf_counter() - started}
            print(json.dumps(seconds), file=answers, flush=True)


if __name__ == "__main__":
    main()

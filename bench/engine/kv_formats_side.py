"""Distributions of texts' last tokens by llama.cpp, with one format of its cache: see kv_formats.py. No torch.

`python kv_formats_side.py JOB.json`, in an environment with xllamacpp.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    """Ask for one token behind each position, with the logarithms of all tokens."""
    import xllamacpp  # type: ignore[import-not-found]

    job = json.loads(Path(sys.argv[1]).read_text())
    longest = max(len(text) for texts in job["texts"] for text in texts)
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_parallel, settings.n_ctx = job["file"], 1, longest + 64
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = job["threads"]
    kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{job['cache'].upper()}")
    settings.cache_type_k = settings.cache_type_v = kind
    server = xllamacpp.Server(settings)
    found = [[_distributions(server, text, job["positions"]) for text in texts] for texts in job["texts"]]
    np.save(job["answer"], np.array(found, dtype=np.float32))


def _distributions(server: object, text: list[int], positions: int) -> list[np.ndarray]:
    """Return the logarithms [vocabulary] at the last positions of a text."""
    rows: list[np.ndarray] = []
    for end in range(len(text) - positions, len(text)):
        asked = {"prompt": text[:end], "n_predict": 1, "n_probs": 10**6, "temperature": 0, "cache_prompt": True}
        answer = server.handle_completions(asked)  # type: ignore[attr-defined]
        answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
        (first,) = answer["choices"][0]["logprobs"]["content"]
        listed = {one["id"]: one["logprob"] for one in first["top_logprobs"]}
        row = np.full(max(listed) + 1, -100.0, dtype=np.float32)
        row[list(listed)] = list(listed.values())
        rows.append(row)
    width = max(map(len, rows))
    return [np.pad(row, (0, width - len(row)), constant_values=-100.0) for row in rows]


if __name__ == "__main__":
    main()

"""Distributions of texts' last tokens by llama.cpp, with one format of its cache: see
kv_formats.py.

`python kv_formats_side.py JOB.json`, in an environment with xllamacpp alone: no torch, no NumPy.
The answer is float32, text by text.
"""

from __future__ import annotations

import json
import sys
from array import array
from pathlib import Path

UNLISTED = -100.0  # the logarithm of a token that the server does not list


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
    with Path(job["answer"]).open("wb") as answer:
        for text in (text for texts in job["texts"] for text in texts):
            for row in _distributions(server, text, job["positions"], job["vocabulary"]):
                row.tofile(answer)


def _distributions(server: object, text: list[int], positions: int, vocabulary: int) -> list[array[float]]:
    """Return the logarithms [vocabulary] at the last positions of a text."""
    rows: list[array[float]] = []
    for end in range(len(text) - positions, len(text)):
        asked = {
            "prompt": text[:end],
            "n_predict": 1,
            "n_probs": 10**6,
            "temperature": 0,
            "cache_prompt": True,
        }
        answer = server.handle_completions(asked)  # type: ignore[attr-defined]
        answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
        (first,) = answer["choices"][0]["logprobs"]["content"]
        row = array("f", [UNLISTED]) * vocabulary
        for one in first["top_logprobs"]:
            row[one["id"]] = one["logprob"]
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()

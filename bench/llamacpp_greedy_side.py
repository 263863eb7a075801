"""The likeliest continuations of prompts by llama.cpp, in its own process: see
gguf_against_llamacpp.py. No runner.

`python llamacpp_greedy_side.py REQUESTS.json ANSWERS.json`, in an environment with `xllamacpp`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def continuations(file: str, prompts: list[list[int]], new: int, context: int) -> list[list[int]]:
    """Return the tokens that follow each prompt; a LongRoPE is rotated for long texts if the
    context is long."""
    import xllamacpp  # type: ignore[import-not-found]

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = file, context, 1
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = parameters.cache_prompt = False
    server = xllamacpp.Server(parameters)
    answers = []
    for prompt in prompts:
        asked: dict[str, Any] = {
            "prompt": prompt, "n_predict": new, "temperature": 0, "cache_prompt": False,
            "return_tokens": True, "verbose": True,
        }  # fmt: skip
        answer = server.handle_completions(asked)
        answers.append(answer["__verbose"]["tokens"])
    return answers


def main() -> None:
    """Answer the requests of a file: `file`, `prompts` of token ids, how many `new` tokens follow,
    the `context`."""
    requests = json.loads(Path(sys.argv[1]).read_text())
    found: list[Any] = []
    for request in requests:
        try:
            found.append(
                continuations(request["file"], request["prompts"], request["new"], request["context"])
            )
        except Exception as error:  # noqa: BLE001  # one file that it cannot read does not cost the others
            found.append(f"{type(error).__name__}: {error}")
        Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()

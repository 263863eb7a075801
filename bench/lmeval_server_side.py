"""lm-eval asks a server, in a process of its own whose environment has what its API models need:
see lm_eval_gguf.py.

`python lmeval_server_side.py ADDRESS TOKENIZER SLOTS` answers lines of JSON. llama.cpp's server
returns no log-likelihoods of a prompt, so prompts are only read here; {"tries": …} says what
lm-eval's own models make of it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.gguf import GGUFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI


class ReadsOnly(LocalCompletionsAPI):  # type: ignore[misc] # lm_eval has no types
    """The same requests without `echo`, which the server ignores, and no scores."""

    def _create_payload(self, *given: Any, **more: Any) -> dict[str, Any]:
        return {key: value for key, value in super()._create_payload(*given, **more).items() if key != "echo"}

    @staticmethod
    def parse_logprobs(ctxlens: Any, **_: Any) -> list[tuple[float, bool]]:
        """Return no score for each request."""
        return [(0.0, False)] * len(ctxlens)


def instances(kind: str, arguments: list[list[Any]]) -> list[Instance]:
    """Return lm-eval's requests."""
    return [
        Instance(request_type=kind, doc={}, arguments=tuple(one), idx=at) for at, one in enumerate(arguments)
    ]


def tried(models: dict[str, Any], request: list[Any]) -> dict[str, str]:
    """Return what each of lm-eval's models makes of a log-likelihood."""
    found = {}
    for name, model in models.items():
        try:
            scores = model.loglikelihood(instances("loglikelihood", [request]))
            found[name] = f"{len(scores)} scores of 1 request"
        except Exception as error:  # noqa: BLE001 # whatever it raises is the finding
            found[name] = f"{type(error).__name__}: {error}"
    return found


def main() -> None:
    """Answer until there are no more lines."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # lm-eval shows its progress there
    logging.disable()
    address, tokenizer, slots = sys.argv[1:]
    settings: dict[str, Any] = {
        "base_url": f"{address}/v1/completions",
        "model": "file",
        "tokenizer": tokenizer,
    }
    settings |= {"tokenizer_backend": "huggingface", "max_length": 1024}
    model = ReadsOnly(**settings, num_concurrent=slots)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if "tries" in job:
            unchanged = LocalCompletionsAPI(**settings, max_retries=1)
            answer: Any = tried(
                {"gguf": GGUFLM(base_url=address), "local-completions": unchanged}, job["tries"]
            )
        else:
            requests = instances(job["kind"], job["requests"])
            began = time.perf_counter()
            getattr(model, job["kind"])(requests, disable_tqdm=True)
            answer = time.perf_counter() - began
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

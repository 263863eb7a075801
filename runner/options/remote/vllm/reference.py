"""Scores texts with transformers in a subprocess, as a reference for vLLM, from a JSON request on stdin."""

from __future__ import annotations

import json
import sys
from typing import Any

from runner_base import child_process


def main() -> None:
    """Read a request, score all tokens of each text except the first, and write the token ids and
    log-probabilities.
    """
    child_process.request_kill_when_parent_dies()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    order = json.load(sys.stdin)
    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": order["trust_remote_code"]}
    tokenizer = AutoTokenizer.from_pretrained(order["folder"], **where)
    model: Any = AutoModelForCausalLM.from_pretrained(
        order["folder"], dtype=getattr(torch, order["dtype"]), **where
    )
    has_room = torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > order["bytes"]
    device = "cuda" if has_room else "cpu"
    model = model.to(device).eval()
    answers = []
    with torch.inference_mode():
        for text in order["texts"]:
            ids = tokenizer(text)["input_ids"]
            logits = model(torch.tensor([ids], device=device)).logits[0, :-1].float()
            chosen = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:], device=device)[:, None])
            answers.append({"ids": ids, "logprobs": chosen[:, 0].tolist()})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()

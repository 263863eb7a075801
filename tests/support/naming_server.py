"""A server with vLLM's paths for log-probabilities, which it has of a real tiny model by a plain
forward pass; it lacks a way, or answers otherwise than it was asked, as a test says."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner.options.remote.api_kind import _reports as reports

OFF = "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them."


class NamingServer:
    """`faults` are what it does otherwise: no_pass, no_steps, ignores, fewer, other_places,
    not_numbers, logits, no_first."""

    def __init__(self, folder: Path, *faults: str) -> None:
        self.faults, self.asked = set(faults), list[str]()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()

    def scores(self, ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = self.model(torch.tensor([ids])).logits[0]
        return logits if "logits" in self.faults else logits.log_softmax(-1)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the answer to a request as vLLM has it."""
        if path == "/tokenize":
            return 200, {"tokens": self.tokenizer(body["prompt"])["input_ids"]}
        if path == "/detokenize":
            return 200, {"prompt": self.tokenizer.decode(body["tokens"])}
        if path == "/inference/v1/generate":
            if "no_pass" in self.faults:
                return 403, {"error": {"message": OFF, "type": "PermissionDeniedError"}}
            self.asked.append(path)
            return 200, self.in_one_pass(body["token_ids"], body["sampling_params"])
        if not body.get("echo"):
            if "no_steps" in self.faults:
                return 400, {"error": {"message": "logprob_token_ids: unknown field"}}
            self.asked.append(path)
            return 200, self.next_token(body)
        ids, scores = body["prompt"], self.scores(body["prompt"])
        own = [None, *(float(scores[at - 1, ids[at]]) for at in range(1, len(ids)))]
        best = [None, *({"x": float(row.max())} for row in scores[:-1])]
        told = {"token_logprobs": own, "top_logprobs": best, "tokens": ["x"] * len(ids)}
        return 200, {"choices": [{"index": 0, "text": "", "logprobs": told}]}

    def in_one_pass(self, ids: list[int], sampling: dict[str, Any]) -> dict[str, Any]:
        scores, begin = self.scores(ids), sampling["prompt_logprob_start"]
        rows = torch.tensor(sampling["prompt_logprob_token_ids"])
        shift = 1 if "other_places" in self.faults else 0
        named = scores[:-1].roll(shift, 0)[begin:].gather(1, rows).numpy()
        named = named[:, :-1] if "fewer" in self.faults else named
        named = np.full_like(named, np.nan) if "not_numbers" in self.faults else named
        places: list[Any] = [None]
        for at in range(1, len(ids)):
            best = int(scores[at - 1].argmax())
            told = {ids[at]: 2, best: 1}
            places.append({str(token): {"logprob": float(scores[at - 1, token]), "rank": rank}
                           for token, rank in told.items()})  # fmt: skip
        packed = io.BytesIO()
        np.save(packed, named)
        answer: dict[str, Any] = {"prompt_logprobs": places}
        if "ignores" not in self.faults:
            answer["prompt_token_id_logprobs"] = base64.b64encode(packed.getvalue()).decode()
        return answer

    def next_token(self, body: dict[str, Any]) -> dict[str, Any]:
        scores = self.scores(body["prompt"])[-1]
        ids = body["logprob_token_ids"]
        ids = ids[: len(ids) // 2] if "fewer" in self.faults else ids
        ids = [] if "ignores" in self.faults else ids
        best = int(scores.argmax())
        name = "x" if "no_first" in self.faults else f"token_id:{best}"
        told = {
            "tokens": [name],
            "token_logprobs": [float(scores[best])],
            "top_logprobs": [{f"token_id:{token}": float(scores[token]) for token in [best, *ids]}],
        }
        return {"choices": [{"index": 0, "text": "x", "logprobs": told}]}


@contextlib.contextmanager
def naming_server(folder: Path, *faults: str) -> Iterator[tuple[str, NamingServer]]:
    """Serve the model `tiny` of a folder; yields the address and what was asked."""
    own = NamingServer(folder, *faults)
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": "vllm"}]})  # fmt: skip

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                self.send(*own.answer(self.path, body))

        def send(self, code: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    reports.clear()  # the system gives ports again
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", own
    finally:
        server.shutdown()
        server.server_close()

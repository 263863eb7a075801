"""A stand-in for llama-server: a program that tells its version and words, and serves or fails as a
test says.

It knows no model: an answer follows from the prompt. What only llama.cpp can show is tested with
xllamacpp (real_llama_cpp.py).
"""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

FAILURES = {  # by what a test asks for: what it writes to its log, and its exit code
    "broken": ("llama_model_load: error loading model: tensor 'blk.3.ffn_up.weight' is not there\n"
               "main: exiting due to model loading error", 1),
    "no_memory": ("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 99999999999", 1),
    "bad_words": ("error: invalid argument: --no-such-word", 1),
    "port_taken": ("main: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 1", 1),
}  # fmt: skip
HELP = (
    "-h, --help\n--version\n-m, --model FNAME\n--alias NAME\n--host H\n--port N\n-c, --ctx-size N\n-np, --parallel N\n"
    "-t, --threads N\n-ctk, --cache-type-k TYPE\n-ctv, --cache-type-v TYPE\n-fa, --flash-attn [on|off|auto]\n"
    "-ngl, --gpu-layers N\n-b, --batch-size N\n-ub, --ubatch-size N\n-ncmoe, --n-cpu-moe N\n-md, --model-draft F\n"
    "--spec-draft-n-max N\n--spec-type T\n-ot, --override-tensor R\n--chat-template-kwargs J\n--chat-template T\n"
    "--rope-freq-scale N\n--rope-scaling S\n--no-warmup\n"
)
SERVER = r"""
import hashlib, json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder, words = Path({folder!r}), sys.argv[1:]
if words[0] == "--version":
    sys.exit(print((folder / "version").read_text(), file=sys.stderr))
if words[0] == "--list-devices":
    sys.exit(print("Available devices:\n" + (folder / "devices").read_text()))
if words[0] == "--help":
    sys.exit(print({help!r}))
options = dict(zip(words, [*words[1:], ""]))
wish = (folder / "wish").read_text()
with (folder / "started").open("a") as started:
    print(json.dumps({{"pid": os.getpid(), "argv": words}}), file=started)
if wish in {failures!r}:
    text, code = {failures!r}[wish]
    print(text, file=sys.stderr)
    sys.exit(code)
if wish == "slow":
    for second in range(3):
        print(f"load_tensors: part {{second}} of 3", file=sys.stderr, flush=True)
        time.sleep(0.7)
key, slots = os.environ["LLAMA_API_KEY"], int(options["--parallel"])
room = int(options["--ctx-size"]) // slots
asked = [0]


def settings(body):
    names = ("n_predict", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_last_n", "seed", "samplers")
    told = {{name: body.get(name) for name in names}}
    return told | ({{"top_k": 40}} if wish == "ignores" else {{}})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, value, code=200):
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.headers.get("Authorization") != f"Bearer {{key}}":
            return self.answer({{"error": {{"message": "Invalid API Key"}}}}, 401)
        if self.path == "/v1/models":
            return self.answer({{"object": "list", "data": [{{"id": options["--alias"], "object": "model"}}]}})
        file = "/elsewhere/another.gguf" if wish == "wrong_model" else options["--model"]
        self.answer({{"model_path": file, "total_slots": 1 if wish == "one_slot" else slots,
                     "default_generation_settings": {{"n_ctx": 8 if wish == "no_room" else room}}}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {{key}}":
            return self.answer({{"error": {{"message": "Invalid API Key"}}}}, 401)
        if self.path == "/completion":
            return self.answer({{"content": "", "generation_settings": settings(body)}})
        if self.path in ("/tokenize", "/apply-template"):  # as a model with other tokens has them
            return self.answer({{"tokens": [ord(letter) for letter in body.get("content", "")], "prompt": str(body)}})
        asked[0] += 1
        if wish == "crash" and asked[0] > 6:
            print("ggml_abort: error: the wheels came off", file=sys.stderr, flush=True)
            os._exit(134)
        time.sleep(float((folder / "delay_s").read_text()))
        prompt = json.dumps(body.get("messages") or body.get("prompt"))
        kept = str(asked[0]) if wish == "cached" and body.get("cache_prompt", True) else ""
        text = "#### " + str(int(hashlib.sha256((kept + prompt).encode()).hexdigest()[:4], 16))
        is_chat = "messages" in body
        piece = {{"delta": {{"content": text}}}} if is_chat else {{"text": text}}
        last = {{"delta": {{}}}} if is_chat else {{"text": ""}}
        usage = {{"prompt_tokens": len(prompt), "completion_tokens": len(text), "total_tokens": len(prompt) + len(text)}}
        chunks = [{{"choices": [{{"index": 0, "finish_reason": None}} | piece]}},
                  {{"choices": [{{"index": 0, "finish_reason": "stop"}} | last], "usage": usage}}]
        data = "".join(f"data: {{json.dumps(chunk | {{'model': options['--alias']}})}}\n\n" for chunk in chunks)
        data = (data + "data: [DONE]\n\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


ThreadingHTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""


class LlamaCppStandIn:
    """A folder with a program `llama-server`."""

    def __init__(self, folder: Path, wish: str = "serve", version: str = "9235 (abc1234)") -> None:
        folder.mkdir()
        self.folder, self.path = folder, folder / "llama-server"
        code = SERVER.format(folder=str(folder), help=HELP, failures=FAILURES)
        self.path.write_text(f"#!{sys.executable}\n{code}")
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)
        (folder / "version").write_text(f"version: {version}\nbuilt with a compiler")
        (folder / "devices").write_text("")
        self.wish(wish)
        self.delay(0.0)

    def wish(self, wish: str) -> None:
        """Say what its next server does."""
        (self.folder / "wish").write_text(wish)

    def delay(self, seconds: float) -> None:
        """Say how long an answer takes."""
        (self.folder / "delay_s").write_text(str(seconds))

    @property
    def started(self) -> list[dict[str, object]]:
        """Process and words of each server that was started."""
        file = self.folder / "started"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def llama_cpp_keys(standin: LlamaCppStandIn, model: Path, *more: str) -> tuple[str, ...]:
    """Return the keys of a job with it; it is not compared, since it computes nothing."""
    where = f"model.executable={standin.path}"
    return ("model=llama_cpp", f"model.name={model}", where, "model.compare=false", *more)

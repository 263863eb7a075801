"""How does our server behave under load, compared with another one? `python bench/serve_load.py`.

Each server is started, warmed up, asked by one client at a time, and then by many; the servers take turns, round by
round, so that a busy machine affects all equally. The clients are one process with bare sockets, which takes little of
the servers' cores: greedy chats of word problems, each one as soon as the last is answered. Each answer is compared
with that of the same question alone; every status except 200 and 429 is a failure.

    python bench/serve_load.py --seconds 60 --other "VLLM/bin/vllm serve runner_engine/embedded/model
        --served-model-name embedded --dtype float32 --max-model-len 512 --port {port}"
        --environment VLLM_CPU_KVCACHE_SPACE=1
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from heading import parse_arguments
from latest import Figure, add_option, save

from runner.datasets.word_problems import Split, generate_problems

ROOT = Path(__file__).resolve().parents[1]
OURS = (
    f"{sys.executable} -m runner task=serve task.port={{port}} model.dtype=float32 tracking=none print=none"
)
INSTRUCTION = "Solve it step by step. End with '#### ' and the number."
READY_S = 300


@dataclass
class Load:
    """The results of one stretch of questions."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)  # of answers
    tokens: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    others: int = 0  # answers that differ from those given alone
    memory_mib: list[float] = field(default_factory=list)  # of the server, each second

    def add(self, other: Load) -> None:
        """Add another round."""
        self.seconds += other.seconds
        self.times += other.times
        self.tokens += other.tokens
        self.statuses += other.statuses
        self.others += other.others
        self.memory_mib += other.memory_mib

    @property
    def tok_per_s(self) -> float:
        """New tokens per second, over all clients."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def growth_mib(self) -> float:
        """How much more memory the last third of the time took than the second one."""
        third = len(self.memory_mib) // 3
        if not third:
            return 0.0
        return statistics.median(self.memory_mib[-third:]) - statistics.median(
            self.memory_mib[third : 2 * third]
        )


def main() -> int:
    """Measure and print; 1 if an answer failed, or differed from the one given alone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of the many clients, in all rounds together"
    )
    parser.add_argument(
        "--alone-seconds", type=float, default=10.0, help="of the one client, in all rounds together"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--other", help="a command that starts another OpenAI server, with {port} in it")
    parser.add_argument(
        "--environment", nargs="*", default=[], metavar="NAME=VALUE", help="of the other server"
    )
    add_option(parser)
    options = parse_arguments(parser)
    commands = {"task=serve": OURS} | ({"the other": options.other} if options.other else {})
    environment = {"task=serve": {}, "the other": dict(one.split("=", 1) for one in options.environment)}
    lone: dict[str, Load] = {name: Load() for name in commands}
    many: dict[str, Load] = {name: Load() for name in commands}
    answers: dict[str, dict[str, str]] = {}
    for _ in range(options.rounds):
        for name, command in commands.items():
            with started(command, environment[name]) as (port, process):
                bodies = questions(port, options.questions, options.max_tokens)
                alone = answers.setdefault(name, {})
                # warms up
                asyncio.run(stretch(port, bodies[: options.clients], options.clients, 0.0, process.pid, None))
                lone[name].add(
                    asyncio.run(
                        stretch(port, bodies, 1, options.alone_seconds / options.rounds, process.pid, alone)
                    )
                )
                if missing := [body for body in bodies if body not in alone]:
                    asyncio.run(stretch(port, missing, 1, 0.0, process.pid, alone))
                seconds = options.seconds / options.rounds
                many[name].add(
                    asyncio.run(stretch(port, bodies, options.clients, seconds, process.pid, alone))
                )
    print(f"python bench/serve_load.py {shlex.join(sys.argv[1:])}".rstrip())
    print(
        f"{options.clients} clients, {options.questions} questions, {options.rounds} rounds by turns, "
        f"{os.cpu_count()} cores"
    )
    head = (
        "server",
        "answers",
        "other",
        "429",
        "p50_s",
        "p95_s",
        "p99_s",
        "tok/s",
        "alone",
        "ratio",
        "MiB",
        "growth",
    )
    print(" ".join(f"{word:>{10 if at == 0 else 8}}" for at, word in enumerate(head)))
    for name in commands:
        print(line(name, lone[name], many[name]))
    if options.other:
        ratio = many["task=serve"].tok_per_s / max(many["the other"].tok_per_s, 1e-9)
        same = sum(answers["task=serve"].get(body) == text for body, text in answers["the other"].items())
        print(
            f"task=serve / the other: {ratio:.2f} x the tokens per second; {same} of {len(bodies)} lone answers equal"
        )
    if options.save:
        what = f"{options.clients} clients"
        save([Figure.of(what, "tokens/s", [load.tok_per_s], name, 0) for name, load in many.items()])
    failed = [name for name, load in many.items() if load.statuses.keys() - {200, 429}]
    for name in failed:
        print(f"{name}: statuses {dict(many[name].statuses)}")
    return 1 if failed or many["task=serve"].others else 0


def line(name: str, lone: Load, many: Load) -> str:
    """Return one server's results on one line; `other` counts answers that differ from those given
    alone."""
    times = sorted(many.times) or [0.0]
    ranks = [times[math.ceil(rank * len(times)) - 1] for rank in (0.5, 0.95, 0.99)]
    cells = [
        f"{len(many.times)}",
        f"{many.others}",
        f"{many.statuses[429]}",
        *(f"{value:.3f}" for value in ranks),
    ]
    cells += [
        f"{many.tok_per_s:.0f}",
        f"{lone.tok_per_s:.0f}",
        f"{many.tok_per_s / max(lone.tok_per_s, 1e-9):.1f}",
    ]
    cells += [f"{max(many.memory_mib, default=0):.0f}", f"{many.growth_mib:+.1f}"]
    return " ".join([f"{name:>10}", *(f"{cell:>8}" for cell in cells)])


def questions(port: int, limit: int, max_tokens: int) -> list[str]:
    """Return the bodies of the requests, with the server's name of the model."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as answer:
        model = json.load(answer)["data"][0]["id"]
    turns = (
        {"role": "user", "content": f"{one.question}\n{INSTRUCTION}"}
        for one in generate_problems(Split.TEST, limit)
    )
    return [
        json.dumps({"model": model, "messages": [turn], "temperature": 0, "max_tokens": max_tokens})
        for turn in turns
    ]


@contextmanager
def started(command: str, environment: dict[str, str]) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Start a server and wait until it is healthy; at the end it gets SIGTERM, then SIGKILL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    words = [word.replace("{port}", str(port)) for word in shlex.split(command)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        words += [f"output_dir={folder}/outputs"] if command == OURS else []
        with log.open("wb") as out:
            process = subprocess.Popen(
                words, stdout=out, stderr=out, cwd=ROOT, env=os.environ | environment, start_new_session=True
            )
        try:
            end = time.monotonic() + READY_S
            while not healthy(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(
                        f"{words[0]} did not come up:\n{log.read_text(errors='replace')[-3000:]}"
                    )
                time.sleep(0.2)
            yield port, process
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def healthy(port: int) -> bool:
    """Whether a server says that it is ready."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
    except OSError:
        return False
    return True


async def stretch(
    port: int, bodies: list[str], clients: int, seconds: float, server: int, alone: dict[str, str] | None
) -> Load:
    """Let clients ask for some time, or each question once (0 s); record answers in `alone`, or
    compare with it."""
    load, numbers = Load(), count()
    began = time.perf_counter()

    def next_body() -> str | None:
        number = next(numbers)
        if seconds:
            return bodies[number % len(bodies)] if time.perf_counter() - began < seconds else None
        return bodies[number] if number < len(bodies) else None

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (body := next_body()) is not None:
            sent = time.perf_counter()
            status, answer = await ask(reader, writer, body)
            load.statuses[status] += 1
            if status == 429:
                await asyncio.sleep(0.05)
                continue
            load.times.append(time.perf_counter() - sent)
            if status != 200:
                continue
            values = json.loads(answer)
            load.tokens += values["usage"]["completion_tokens"]
            if alone is not None:
                text = values["choices"][0]["message"]["content"]
                load.others += alone.setdefault(body, text) != text
        writer.close()

    async def look() -> None:
        while True:
            load.memory_mib.append(memory_mib(server))
            await asyncio.sleep(1)

    looking = asyncio.ensure_future(look())
    await asyncio.gather(*(client() for _ in range(clients)))
    looking.cancel()
    load.seconds = time.perf_counter() - began
    return load


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: str) -> tuple[int, bytes]:
    """Send one request over a connection that stays open; return status and body."""
    data = body.encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    length = next(int(one.partition(":")[2]) for one in lines if one.lower().startswith("content-length:"))
    return int(lines[0].split()[1]), await reader.readexactly(length)


def memory_mib(process: int) -> float:
    """Return the resident memory of a process and of all below it."""
    total, todo = 0.0, [process]
    while todo:
        one = todo.pop()
        with suppress(OSError, ValueError, IndexError):
            status = Path(f"/proc/{one}/status").read_text()
            total += int(status.partition("VmRSS:")[2].split()[0]) / 1024
            for thread in Path(f"/proc/{one}/task").iterdir():
                todo += map(int, (thread / "children").read_text().split())
    return total


if __name__ == "__main__":
    sys.exit(main())

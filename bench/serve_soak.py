"""Does a server's memory come back after load and attacks? `python bench/serve_soak.py`

One server gets the same load several times, each followed by a rest. The load is chats of many clients, answers that
follow a schema, clients that leave, and schemas that would take minutes and gigabytes to compile. The table has the
server's memory, child processes and threads during each load and at the end of each rest. The exit code is 1 if an
answer failed, if a costly schema was accepted, or if the last rest holds more memory than the one before (--grows).

    python bench/serve_soak.py --seconds 600 --rounds 3 --rest 90     # half an hour
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from serve_load import OURS, ask, questions, started

# the schemas are made anew for each number, so that no refusal is a kept one
COSTLY = (
    lambda n: {"type": "integer", "multipleOf": 9_999_000 + n % 1000},
    lambda n: {"allOf": [{"type": "string", "pattern": f"[ab]*a[ab]{{{k + n % 7}}}"} for k in range(5, 25)]},
    lambda n: {"type": "string", "pattern": f"^((a{{{90 + n % 10}}}){{100}}){{100}}$"},
    lambda n: {"$ref": "#", "title": str(n)},
)  # fmt: skip
PLAIN = {
    "type": "object",
    "properties": {"steps": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 3}},
    "required": ["steps"],
    "additionalProperties": False,
}  # fmt: skip


@dataclass
class Round:
    """One load and the rest behind it."""

    statuses: Counter[int] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)  # of the clients that do not attack
    costly: Counter[int] = field(default_factory=Counter)
    left: int = 0
    during: list[tuple[float, int, int]] = field(default_factory=list)  # each second
    rest: tuple[float, int, int] = (0.0, 0, 0)

    def cells(self) -> list[str]:
        """Return a line of the table."""
        times = sorted(self.times) or [0.0]
        peak = [max(values) for values in zip(*self.during, strict=True)]
        return [
            str(sum(self.statuses.values())), str(sum(self.costly.values())), str(self.left),
            f"{times[int(0.99 * (len(times) - 1))]:.2f}", f"{times[-1]:.2f}", f"{peak[0]:.0f}", str(peak[1]),
            str(peak[2]), f"{self.rest[0]:.0f}", str(self.rest[1]), str(self.rest[2]),
        ]  # fmt: skip


HEAD = (
    "answers", "costly", "left", "p99_s", "max_s", "peak_MiB",
    "children", "threads", "rest_MiB", "children", "threads",
)  # fmt: skip


def main() -> int:
    """Load the server, and print a table; 1 if something failed or memory grew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=600.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rest", type=float, default=90.0, help="seconds behind each load")
    parser.add_argument("--grows", type=float, default=16.0, help="MiB that the last rest may hold more")
    parser.add_argument("--without-attack", action="store_true", help="only clients that mean well")
    options = parser.parse_args()
    rounds, numbers = [], count()
    print(
        f"{options.clients} clients, {options.rounds} loads of {options.seconds:g} s, each with a rest of "
        f"{options.rest:g} s, {os.cpu_count()} cores"
    )
    print(" ".join(f"{word:>8}" for word in HEAD))
    with started(OURS, {}) as (port, process):
        bodies = questions(port, 200, 64)
        for _ in range(options.rounds):
            one = asyncio.run(load(port, bodies, options, process.pid, numbers))
            time.sleep(options.rest)
            one.rest = state_of(process.pid)
            rounds.append(one)
            print(" ".join(f"{cell:>8}" for cell in one.cells()), flush=True)
    failed = {status for one in rounds for status in one.statuses} - {200, 429}
    accepted = {status for one in rounds for status in one.costly} - {400, 429, 503}
    grown = rounds[-1].rest[0] - rounds[-2].rest[0] if len(rounds) > 1 else 0.0
    print(f"last rest against the one before: {grown:+.1f} MiB")
    for name, statuses in (
        ("answers", [one.statuses for one in rounds]),
        ("costly schemas", [one.costly for one in rounds]),
    ):
        print(f"statuses of {name}: {dict(sum(statuses, Counter()))}")
    return 1 if failed or accepted or grown > options.grows else 0


async def load(
    port: int, bodies: list[str], options: argparse.Namespace, server: int, numbers: count[int]
) -> Round:
    """Let all clients ask for some time."""
    one, places, end = Round(), count(), time.monotonic() + options.seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < end:
            body = bodies[next(places) % len(bodies)]
            if number % 4 == 1:
                body = with_schema(body, PLAIN)
            sent = time.monotonic()
            status, _ = await ask(reader, writer, body)
            one.statuses[status] += 1
            one.times.append(time.monotonic() - sent)
        writer.close()

    async def leaver() -> None:
        while time.monotonic() < end:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            asking = asyncio.ensure_future(ask(reader, writer, bodies[next(places) % len(bodies)]))
            await asyncio.wait({asking}, timeout=0.05)
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            writer.close()
            one.left += 1
            await asyncio.sleep(0.2)

    async def attacker(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < end:
            body = with_schema(bodies[0], COSTLY[number](next(numbers)))
            one.costly[(await ask(reader, writer, body))[0]] += 1
            await asyncio.sleep(1)
        writer.close()

    async def look() -> None:
        while True:
            one.during.append(state_of(server))
            await asyncio.sleep(1)

    looking = asyncio.ensure_future(look())
    attackers = () if options.without_attack else [attacker(number) for number in range(len(COSTLY))]
    await asyncio.gather(*map(client, range(options.clients)), leaver(), *attackers)
    looking.cancel()
    return one


def with_schema(body: str, schema: dict[str, Any]) -> str:
    """Return a request whose answer follows a schema."""
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    return json.dumps(json.loads(body) | {"response_format": wanted})


def state_of(server: int) -> tuple[float, int, int]:
    """Return the memory in MiB of a server with all that it has started, its child processes, and its threads."""
    processes, at, total = [server], 0, 0
    while at < len(processes):
        for task in Path(f"/proc/{processes[at]}/task").glob("*"):
            with suppress(OSError):
                processes += map(int, (task / "children").read_text().split())
        at += 1
    for process in processes:
        with suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return total / 1024, len(processes) - 1, len(list(Path(f"/proc/{server}/task").glob("*")))


if __name__ == "__main__":
    raise SystemExit(main())

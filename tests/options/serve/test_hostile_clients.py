"""Clients that attack a server: hostile numbers, silent connections, answers that nobody reads.

Beside them, OpenAI's own client asks and must get every answer, with the same text as before. In
the end, the server's memory is what it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hostile_bodies import CHAT, TEXT, body_of, every_body, every_prompt, random_bodies
from openai import OpenAI, RateLimitError
from serving import FLOAT32, WAIT_S, Serving, serving

# A model for a try by hand: RUNNER_HOSTILE_MODEL="model=local model.name=FOLDER"
MODEL = os.environ.get("RUNNER_HOSTILE_MODEL", " ".join(FLOAT32)).split()
HALF = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le"
ATTACKERS, OTHERS = 4, 3
MOST_MIB = 48.0  # more memory after the attack: what the allocator keeps


@dataclass
class Beside:
    """OpenAI's client in several threads; each answer must be as it was before the attack."""

    server: Serving
    texts: set[str] = field(default_factory=set)
    answers: int = 0
    was_full: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def ask_until_over(self, seed: int) -> None:
        client = OpenAI(base_url=f"{self.server.url}/v1", api_key="none", max_retries=0, timeout=WAIT_S)
        is_answered = False
        while not (is_answered and self.over.is_set()):  # the attack may end before the first answer
            try:
                self.texts.add(text_of(client))
                streamed = client.completions.create(
                    model=self.server_model(client),
                    prompt="Tom has 7 pens",
                    max_tokens=12,
                    temperature=0.8,
                    seed=seed,
                    stream=True,
                )
                assert [it.choices[0].finish_reason for it in streamed][-1] in ("stop", "length")
                self.answers, is_answered = self.answers + 2, True
            except RateLimitError:  # an attacker has taken all places for a moment, as any client may
                self.was_full += 1
                time.sleep(0.05)

    def server_model(self, client: OpenAI) -> str:
        return next(iter(client.models.list())).id


def text_of(client: OpenAI) -> str:
    model = next(iter(client.models.list())).id
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Ann has 3 apples and buys 4."}],
        max_tokens=16,
        temperature=0,
    )
    return answer.choices[0].message.content or ""


@contextlib.contextmanager
def clients_beside(server: Serving) -> Iterator[Beside]:
    """Let OpenAI's client ask during this block; all its requests must be answered, and alike."""
    alone = text_of(OpenAI(base_url=f"{server.url}/v1", api_key="none"))
    beside = Beside(server)
    with ThreadPoolExecutor(OTHERS) as pool:
        asking = [pool.submit(beside.ask_until_over, seed) for seed in range(OTHERS)]
        try:
            yield beside
        finally:
            beside.over.set()
        for one in asking:
            one.result()
    assert beside.texts == {alone}


def attack(server: Serving, bodies: Iterable[tuple[str, bytes]]) -> Counter[int]:
    """Send bodies from several clients; each must be answered, or refused with a reason. Return the
    statuses."""

    def send(one: tuple[str, bytes]) -> int:
        path, body = one
        status, answer = server.ask(path, body)
        assert status == 200 or (400 <= status < 500 and answer["error"]["message"]), (
            status,
            body[-300:],
            answer,
        )
        return status

    with ThreadPoolExecutor(ATTACKERS) as pool:
        return Counter(pool.map(send, bodies))


def rss_mib(server: Serving) -> float:
    (kib,) = re.findall(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text(), re.M)
    return int(kib) / 1024


def open_files(server: Serving) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def silent_connections(server: Serving, count: int) -> list[socket.socket]:
    """Open connections, every second one with half a header."""
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
    for client in silent[::2]:
        with contextlib.suppress(OSError):  # closed in favour of another one
            client.sendall(HALF)
    return silent


def unread_answers(server: Serving, count: int) -> list[socket.socket]:
    """Ask for large answers, and do not read them."""
    body = json.dumps(
        {"prompt": "x " * 400, "echo": True, "n": 2, "max_tokens": 200, "stream": True, "ignore_eos": True}
    )
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        head = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body.encode())
        clients.append(client)
    return clients


def check_that_it_is_as_before(server: Serving) -> None:
    server.until(lambda now: now["runner_open"] == 0 and now["runner_rows_alive"] == 0)
    assert "an engine step failed" not in server.err
    assert "Traceback" not in server.err
    assert server.ask("/health") == (200, {"status": "ok"})


def test_one_hostile_number_does_not_end_the_requests_of_others(tmp_path: Path) -> None:
    names = ("top_k", "seed", "temperature", "n", "max_tokens")
    numbers = ("1" + "0" * 400, "1e400", "NaN", "-1", "1e-45", "true")
    bodies = [(path, body_of(path, {name: it})) for path in (TEXT, CHAT) for name in names for it in numbers]
    with serving(tmp_path, *FLOAT32, "tracking=none") as server:
        with clients_beside(server) as beside:
            statuses = attack(server, bodies)
        assert beside.answers >= OTHERS
        assert statuses[400] >= 50, statuses
        check_that_it_is_as_before(server)


@pytest.mark.thorough
def test_an_attack_leaves_others_and_memory_as_they_were(tmp_path: Path) -> None:
    with serving(
        tmp_path,
        *MODEL,
        "tracking=none",
        "task.idle_timeout_s=20",
        "task.write_timeout_s=5",
        "generation.prompt_cache_mib=16",
    ) as server:
        with clients_beside(server):  # the caches fill, and as many rows are under way as later
            unread = unread_answers(server, 20)
            attack(server, random_bodies(100, seed=1))
            for client in unread:
                client.close()
        check_that_it_is_as_before(server)
        before, files = rss_mib(server), open_files(server)
        with clients_beside(server) as beside:
            silent, unread = silent_connections(server, 500), unread_answers(server, 20)
            statuses = attack(server, random_bodies(1000, seed=2))
            end = time.monotonic() + WAIT_S
            while open_files(server) > files + 10 or not all(
                map(is_ended, silent)
            ):  # the clients beside have a few
                assert time.monotonic() < end, open_files(server)
                time.sleep(0.2)
            during = beside.answers
            for client in (*silent, *unread):
                client.close()
        check_that_it_is_as_before(server)
        after = rss_mib(server)
        print(f"others: {during} answers, {beside.was_full} times full; attack: {dict(statuses)}")
        print(f"resident: {before:.0f} MiB before, {after:.0f} MiB after")
        assert during > 50
        assert sum(statuses.values()) == 1000
        assert after < before + MOST_MIB


def is_ended(client: socket.socket) -> bool:
    """Whether the server has ended a connection, without reading from it."""
    if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return True
    state: int = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state in (7, 8)  # TCP_CLOSE, TCP_CLOSE_WAIT


@pytest.mark.thorough
def test_each_number_in_each_field_is_served_or_refused(tmp_path: Path) -> None:
    with serving(tmp_path, *MODEL, "tracking=none") as server:
        with clients_beside(server) as beside:
            statuses = attack(server, [*every_body(), *every_prompt()])
        print(f"others: {beside.answers} answers, {beside.was_full} times full; attack: {dict(statuses)}")
        assert statuses[200] > 500
        assert statuses[400] > 2000
        check_that_it_is_as_before(server)

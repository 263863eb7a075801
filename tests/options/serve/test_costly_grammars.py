"""Schemas of a few bytes that take minutes or gigabytes to compile: they are refused soon, and no
other client waits for them."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from serving import FLOAT32, Serving, serving

pytestmark = pytest.mark.slow  # as a group

CHAT = "/v1/chat/completions"
MOST_MIB = 300.0  # more memory, of the server and its child processes together
MOST_WAIT_S = 2.0  # longer than without an attack
COSTLY: dict[str, dict[str, Any]] = {
    "multiple": {"type": "integer", "multipleOf": 9_999_991},
    "patterns": {"allOf": [{"type": "string", "pattern": f"[ab]*a[ab]{{{n}}}"} for n in range(5, 25)]},
    "properties": {
        "type": "object",
        "properties": {f"p{n}": {"type": "string"} for n in range(10_000)},
        "additionalProperties": False,
    },
    "nested repeats": {"type": "string", "pattern": "^((a{100}){100}){100}$"},
}  # fmt: skip
IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "reference to itself": {"$ref": "#"},
    "a million letters": {"type": "string", "pattern": "^a{1000000}$"},
    **COSTLY,
}
BEHIND_TRIED_TOKENS = {  # the trial reads only the first tokens of an answer
    "type": "object",
    "properties": {"a": {"const": "x7" * 60}, "b": {"type": "string", "pattern": "^((a{50}){50}){20}$"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
KNOWN = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def body_of(schema: dict[str, Any], **keys: Any) -> dict[str, Any]:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    messages = [{"role": "user", "content": "Tom has 8 pens."}]
    return {"messages": messages, "max_tokens": 8, "temperature": 0, "response_format": wanted} | keys


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("costly"), *FLOAT32, "tracking=none") as server:
        assert server.ask(CHAT, body_of(KNOWN))[0] == 200
        yield server


def processes_of(server: Serving) -> list[int]:
    """Return the ids of the server and of all that it has started."""
    found, seen = [server.process.pid], 0
    while seen < len(found):
        with suppress(OSError):  # it may have ended meanwhile
            for task in Path(f"/proc/{found[seen]}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        seen += 1
    return found


def memory_mib(server: Serving) -> float:
    total = 0
    for pid in processes_of(server):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return total / 1024


def refusal(server: Serving, body: dict[str, Any]) -> tuple[int, Any]:
    """Ask until the answer is not that this machine is too busy to try the schema."""
    for _ in range(4):
        status, answer = server.ask(CHAT, body)
        if status != 503 or "machine is busy" not in answer["error"]["message"]:
            break
    return status, answer


class Others:
    """Clients with a known schema and with a new one each time, and the server's memory."""

    def __init__(self, server: Serving) -> None:
        self.server, self.waits, self.memory = server, list[float](), list[float]()
        self.statuses: set[int] = set()
        self._over, self._numbers = threading.Event(), iter(range(10**6))
        self._threads = [threading.Thread(target=self._ask, args=(is_new,)) for is_new in (False, True)] + [
            threading.Thread(target=self._look)
        ]

    def __enter__(self) -> Others:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, is_new: bool) -> None:
        while not self._over.is_set():
            name = f"n{id(self)}_{next(self._numbers)}"
            new = {"type": "object", "properties": {name: {"type": "boolean"}}}
            started = time.monotonic()
            status, _ = self.server.ask(CHAT, body_of(new if is_new else KNOWN))
            self.waits.append(time.monotonic() - started)
            self.statuses.add(status)

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.memory.append(memory_mib(self.server))


@pytest.mark.thorough
@pytest.mark.parametrize("name", COSTLY)
def test_others_do_not_wait_for_a_costly_schema(server: Serving, name: str) -> None:
    with Others(server) as control:
        time.sleep(3)
    with Others(server) as beside:
        status, answer = refusal(server, body_of(COSTLY[name]))
    print(
        f"{name}: others waited {max(control.waits):.2f} s without the attack, "
        f"{max(beside.waits):.2f} s beside it (median {statistics.median(beside.waits):.2f}); "
        f"memory {max(control.memory):.0f} -> {max(beside.memory):.0f} MiB"
    )
    assert status == 400, answer
    assert control.statuses == beside.statuses == {200}
    assert max(beside.waits) < max(control.waits) + MOST_WAIT_S
    assert max(beside.memory) < max(control.memory) + MOST_MIB


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_the_reason_is_plain(server: Serving, name: str) -> None:
    status, answer = refusal(server, body_of(IMPOSSIBLE[name]))
    message = answer["error"]["message"]
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error"), answer
    assert len(message) < 300
    for inner in ("<state>", "Parser", "lexer", "grm_prefix", "panicked", "\n"):
        assert inner not in message


@pytest.mark.thorough
def test_a_schema_that_becomes_too_complex_within_an_answer_is_refused(server: Serving) -> None:
    status, _ = server.ask(CHAT, body_of(BEHIND_TRIED_TOKENS))  # 8 tokens do not get that far
    assert status == 200
    with Others(server) as control:
        time.sleep(3)
    with Others(server) as beside:
        status, answer = refusal(server, body_of(BEHIND_TRIED_TOKENS, max_tokens=250))
    print(f"others waited {max(control.waits):.2f} s before, {max(beside.waits):.2f} s beside it")
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error"), answer
    assert "the schema is too complex. Simplify patterns" in answer["error"]["message"]
    assert control.statuses == beside.statuses == {200}
    assert max(beside.waits) < max(control.waits) + MOST_WAIT_S
    assert max(beside.memory) < max(control.memory) + MOST_MIB


def test_a_client_that_leaves_ends_the_compiling(server: Serving) -> None:
    slow = {"type": "integer", "multipleOf": 9_999_973}
    gone = server.send(CHAT, body_of(slow))
    time.sleep(0.3)
    gone.close()
    end = time.monotonic() + 2.0  # half of it is CPU time that the trial would have had left
    while server.metrics()["runner_open"]:
        assert time.monotonic() < end, "its place is still taken"
        time.sleep(0.02)


def test_an_attack_from_many_clients_leaves_nothing_behind(server: Serving) -> None:
    before = memory_mib(server)
    with Others(server) as beside:
        clients = [
            server.send(CHAT, body_of({"type": "integer", "multipleOf": 9_999_000 + n})) for n in range(12)
        ]
        time.sleep(1)
        for client in clients:
            client.close()
        server.until(lambda now: now["runner_open"] <= 2)
    assert beside.statuses == {200}
    assert max(beside.memory) < before + MOST_MIB + 4 * 64  # so many trials run at once
    assert json.dumps(server.ask("/health")) == json.dumps((200, {"status": "ok"}))

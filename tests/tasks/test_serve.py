"""A server as its users start, stop, kill and overload it: real processes and signals on 127.0.0.1."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from servers import free_port
from serving import FLOAT32, Serving, serving

from runner.config.root import RunnerConfig
from runner.config.task import ServeConfig
from runner.core.errors import ConfigError
from runner.tasks import serve

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

Make = Callable[..., RunnerConfig]
NewDatabase = Callable[[Path], None]
SLOW = pytest.mark.slow  # as a group
KEY = "sk-test-4f9c27d1e8b04a55"
LONG = {"prompt": "Once", "max_tokens": 900, "ignore_eos": True}  # seconds of work
STUB = ("model=stub", "tracking=none")


@pytest.fixture(autouse=True)
def without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_API_KEY", raising=False)


# --------------------------------------------------------------------------------------------- before a load


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"port": 70000}, "task.port=70000: must lie in 0..65535"),
        ({"host": " "}, "task.host=' ': give an address"),
        ({"max_open": 0}, "task.max_open=0: must be 1 or more"),
        ({"timeout_s": 0}, "task.timeout_s=0: must be more than 0 seconds"),
        ({"drain_s": -1}, "task.drain_s=-1: must be 0 or more"),
        ({"model_name": ""}, "task.model_name=''"),
    ],
)
def test_keys_are_checked(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        ServeConfig(**keys)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.7.7", "::", "example.org"])
def test_an_address_that_others_reach_needs_a_key(
    make_config: Make, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(task=ServeConfig(host=host, port=0))
    with pytest.raises(
        ConfigError, match=f"task.host={host}: others could use this server, so it needs a key: set RUNNER_API_KEY"
    ):
        serve.prepare(config)
    monkeypatch.setenv("RUNNER_API_KEY", "  ")
    with pytest.raises(ConfigError, match="needs a key"):
        serve.prepare(config)


def test_a_key_that_no_header_carries_is_refused_and_not_shown(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_API_KEY", "geh heim")
    with pytest.raises(ConfigError, match="RUNNER_API_KEY") as refused:
        serve.prepare(make_config(task=ServeConfig(port=0)))
    assert "geh heim" not in str(refused.value)
    monkeypatch.setenv("RUNNER_API_KEY", KEY)
    inputs = serve.prepare(make_config(task=ServeConfig(host="0.0.0.0", port=0)))
    assert inputs.key == KEY
    assert KEY not in repr(inputs)


@SLOW
def test_a_port_that_is_taken_is_said_before_anything_is_loaded(runner: Any, make_config: Make) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = runner("task=serve", f"task.port={port}", *STUB)
        assert done.code == 2
        assert f"error: task.port={port}: Address already in use at 127.0.0.1: stop what listens there" in done.err
    with pytest.raises(ConfigError, match="task.host=8.8.8.8"):
        serve.bound_to(ServeConfig(host="8.8.8.8"))
    with pytest.raises(ConfigError, match="task.host=no.such.host.invalid: this is no address of this machine"):
        serve.bound_to(ServeConfig(host="no.such.host.invalid"))


@SLOW
def test_a_grid_of_servers_is_impossible(runner: Any) -> None:
    done = runner("-m", "task=serve", "task.port=0", "model=stub", "generation.max_new_tokens=1,2", "tracking=none")
    assert done.code == 2
    assert "task=serve goes on until it is stopped, so it cannot be a job of a grid" in done.err


# ----------------------------------------------------------------------------------------- leaving, limits


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    limits = ("task.max_open=8", "task.max_body_kib=16", "task.timeout_s=3", "task.max_new_tokens=1000")
    with serving(tmp_path_factory.mktemp("small"), *FLOAT32, *limits, "tracking=none") as server:
        yield server


@SLOW
def test_a_client_that_leaves_frees_its_row_at_once(small: Serving) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 900, "ignore_eos": True}
    asked: dict[str, dict[str, Any]] = {"/v1/completions": LONG, "/v1/chat/completions": chat}
    for path, body in asked.items():
        before = small.metrics()["runner_clients_left_total"]
        connection = small.open_stream(path, body)
        small.until(lambda now: now["runner_rows_alive"] == 1)
        connection.close()
        connection.answer.close()  # type: ignore[attr-defined]
        started = time.monotonic()
        small.until(lambda now: now["runner_rows_alive"] == 0 and now["runner_open"] == 0)
        assert time.monotonic() - started < 1.5
        assert small.metrics()["runner_clients_left_total"] == before + 1
    with socket.create_connection(("127.0.0.1", small.port)) as whole:  # no stream: gone while the answer is awaited
        data = json.dumps(LONG).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        whole.sendall(head.encode() + data)
        small.until(lambda now: now["runner_rows_alive"] == 1)
    started = time.monotonic()
    small.until(lambda now: now["runner_rows_alive"] == 0 and now["runner_open"] == 0)
    assert time.monotonic() - started < 1.5
    assert "Traceback" not in small.err


@SLOW
def test_a_client_that_leaves_before_its_stream_begins_is_noticed_while_it_waits(tmp_path: Path) -> None:
    with serving(tmp_path, *STUB, "model.delay_s=2") as server:  # one request at a time, two seconds each
        first = threading.Thread(target=server.ask, args=("/v1/completions", {"prompt": "x"}))
        first.start()
        server.until(lambda now: now["runner_open"] == 1)
        data = json.dumps({"prompt": "y", "stream": True}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as second:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            second.sendall(head.encode() + data)
            server.until(lambda now: now["runner_open"] == 2)
        server.until(lambda now: now["runner_open"] == 1, within_s=1)
        first.join()


@SLOW
def test_beyond_its_room_a_server_sends_clients_away_for_a_while(small: Serving) -> None:
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(lambda _: small.ask("/v1/completions", LONG | {"max_tokens": 100}), range(16)))
    assert {status for status, _ in done} == {200, 429}
    assert sum(status == 200 for status, _ in done) >= 8
    refused = next(answer for status, answer in done if status == 429)
    assert refused["error"]["code"] == "rate_limit_exceeded"
    assert "8 at most" in refused["error"]["message"]
    with ThreadPoolExecutor(8) as pool:
        open_ones = [pool.submit(small.ask, "/v1/completions", LONG) for _ in range(8)]
        small.until(lambda now: now["runner_open"] == 8)
        head = subprocess.run(
            ["curl", "-sSi", f"{small.url}/v1/completions", "-H", "Content-Type: application/json", "-d", '{"prompt": "7"}'],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert " 429 " in head.splitlines()[0]
        assert re.search(r"^retry-after: [1-9]\d*\r?$", head, re.MULTILINE)
        ended = [future.result() for future in open_ones]
    assert {status for status, _ in ended} <= {200, 504}


@SLOW
def test_an_answer_that_takes_too_long_is_ended(small: Serving) -> None:
    several = LONG | {"n": 8}
    status, answer = small.ask("/v1/completions", several)
    if status == 200:
        pytest.skip("this machine is too quick for a time limit of 3 s")
    assert (status, answer["error"]["type"]) == (504, "server_error")
    assert "3 s (task.timeout_s)" in answer["error"]["message"]
    small.until(lambda now: now["runner_open"] == 0 and now["runner_rows_alive"] == 0)
    status, text = small.ask("/v1/completions", several | {"stream": True})
    assert status == 200
    last = text.split("\n\n")
    assert "task.timeout_s" in json.loads(last[-3].removeprefix("data: "))["error"]["message"]
    assert last[-2] == "data: [DONE]"


@SLOW
def test_bodies_that_are_too_large_are_not_read(small: Serving) -> None:
    status, answer = small.ask("/v1/completions", {"prompt": "x" * 20_000})
    assert (status, answer["error"]["message"]) == (
        413,
        "the body is too large: this server takes 16 KiB (task.max_body_kib)",
    )
    with socket.create_connection(("127.0.0.1", small.port), timeout=20) as endless:  # says no length, and never ends
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        endless.sendall(head.encode())
        got = b""
        with pytest.raises(OSError):  # noqa: PT012, PT011 - whichever end of the line the kernel names
            while True:
                endless.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
                endless.settimeout(0.01)
                try:
                    got += endless.recv(4096)
                except TimeoutError:
                    continue
                finally:
                    endless.settimeout(20)
        assert not got or b" 413 " in got
    assert small.ask("/health")[0] == 200


@SLOW
def test_prompts_that_fill_the_room_are_refused_without_harm_to_others(small: Serving) -> None:
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(small.ask, "/v1/completions", {"prompt": "7", "max_tokens": 30, "ignore_eos": True})
        status, answer = small.ask("/v1/completions", {"prompt": [5] * 2000})
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert good.result()[0] == 200


# ------------------------------------------------------------------------------------------- ends, restarts


@SLOW
def test_a_server_that_is_asked_to_stop_ends_its_open_answers_first(tmp_path: Path, new_database: NewDatabase) -> None:
    new_database(tmp_path / "outputs" / "mlflow.db")
    with serving(tmp_path, *FLOAT32, "task.port=0") as server:
        assert server.ask("/v1/completions", {"prompt": "7", "max_tokens": 4})[0] == 200
        assert server.ask("/v1/completions", {"prompt": ""})[0] == 400
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(server.ask, "/v1/completions", LONG | {"max_tokens": 400})
            server.until(lambda now: now["runner_rows_alive"] == 1)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.4)
            status, answer = server.ask("/v1/completions", {"prompt": "7"})
            assert (status, answer["error"]["message"]) == (
                503,
                "the server is being stopped and takes no new requests",
            )
            assert server.ask("/health") == (503, {"status": "draining"})
            status, answer = slow.result()
        assert (status, answer["usage"]["completion_tokens"]) == (200, 400)
        assert server.process.wait(60) == 0
        assert "requests       4   2 answered · 1 sent away · 0 clients left · 1 wrong · 0 failed" in server.out, (
            server.out
        )
        assert "Traceback" not in server.err
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["requests"] == 4
    assert run.data.metrics["new_tokens"] == 404
    assert run.data.metrics["peak_rows"] >= 1


@pytest.mark.parametrize("how", ["drain_s", "second signal"])
@SLOW
def test_who_is_not_ready_in_time_is_told(tmp_path: Path, how: str) -> None:
    drain = "task.drain_s=0.5" if how == "drain_s" else "task.drain_s=60"
    with serving(tmp_path, *FLOAT32, "tracking=none", drain) as server, ThreadPoolExecutor(2) as pool:
        body = LONG | {"n": 16}
        whole = pool.submit(server.ask, "/v1/completions", body)
        stream = pool.submit(server.ask, "/v1/completions", body | {"stream": True})
        server.until(lambda now: now["runner_rows_alive"] == 32)
        started = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        if how != "drain_s":
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
        status, answer = whole.result()
        assert (status, answer["error"]["message"]) == (503, "the server is being stopped: the answer is not complete")
        assert "the answer is not complete" in stream.result()[1]
        assert server.process.wait(60) == 0
        assert time.monotonic() - started < 15
        assert "0 answered" not in server.out, "a stream that was begun has its status"
        assert "task=serve" in server.out


@SLOW
def test_a_killed_server_starts_again_on_the_same_port(tmp_path: Path, new_database: NewDatabase) -> None:
    new_database(tmp_path / "outputs" / "mlflow.db")
    port = f"task.port={free_port()}"
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    with serving(tmp_path, port, *FLOAT32) as first:
        connection = first.open_stream("/v1/completions", LONG)
        first.process.kill()
        first.process.wait()
        connection.close()
    assert [run.info.status for run in client.search_runs(["1"])] == ["RUNNING"]
    with serving(tmp_path, port, *FLOAT32) as second:
        assert second.url == first.url
        assert second.ask("/v1/completions", {"prompt": "7", "max_tokens": 2})[0] == 200
        assert second.stop() == 0
    runs = client.search_runs(["1"], order_by=["attributes.start_time"])
    assert [run.info.status for run in runs] == ["KILLED", "FINISHED"]
    assert runs[0].data.tags["job_id"] == runs[1].data.tags["job_id"]


@SLOW
def test_a_signal_while_the_model_loads_ends_it_as_any_job(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runner", "task=serve", "task.port=0", "tracking=none"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("outputs/jobs/*/config.yaml")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "interrupted" in err
    assert "Traceback" not in err


# ------------------------------------------------------------------------------------------------- the key


@SLOW
def test_with_a_key_nothing_is_told_without_it_and_it_is_written_nowhere(
    tmp_path: Path, new_database: NewDatabase
) -> None:
    new_database(tmp_path / "outputs" / "mlflow.db")
    with serving(tmp_path, "model=stub", "task.host=0.0.0.0", RUNNER_API_KEY=KEY) as server:
        assert server.ask("/v1/completions", {"prompt": "7"})[0] == 200
        for wrong in ("", "Bearer ", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", KEY, "Bearer \xff"):
            for path in ("/v1/completions", "/v1/models", "/metrics", "/generate", "/nothing"):
                status, answer = server.ask(path, Authorization=wrong)
                assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
                assert KEY not in json.dumps(answer)
        assert server.ask("/", Authorization="")[0] == 200
        assert server.ask("/health", Authorization="") == (200, {"status": "ok"})
        assert server.ask("/v1/completions", b"{", Host="evil.example")[0] == 400, "with a key, any name will do"
        server.ask(f"/v1/models/{KEY}")
        assert "with the key in RUNNER_API_KEY" in server.err
        assert server.stop() == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"out.txt", "err.txt", "log.txt", "result.json", "config.yaml", "mlflow.db"} <= {
        path.name for path in written
    }
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


@SLOW
def test_a_key_is_demanded_on_this_machine_too_where_there_is_one(tmp_path: Path) -> None:
    with serving(tmp_path, *STUB, RUNNER_API_KEY=KEY) as server:
        assert server.ask("/v1/models", Authorization="")[0] == 401
        assert server.ask("/v1/models")[0] == 200


# ------------------------------------------------------------------------------------------- other engines


@SLOW
def test_the_stub_serves_and_is_named_as_asked(tmp_path: Path) -> None:
    with serving(tmp_path, *STUB, "task.model_name=mine", "model.delay_s=0.3") as server:
        assert server.ask("/v1/models")[1]["data"][0]["id"] == "mine"
        asked = [threading.Thread(target=server.ask, args=("/v1/completions", {"prompt": "x"})) for _ in range(3)]
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join()
        assert server.metrics()['runner_requests_total{path="/v1/completions",status="200"}'] == 3
        assert server.stop(signal.SIGHUP) == 0
    assert os.listdir(tmp_path / "outputs" / "jobs")

"""A server as its users start, stop, kill and overload it: real processes and signals on
127.0.0.1."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from raising import raises
from servers import free_port
from serving import FLOAT32, WAIT_S, Serving, serving

from runner.config.root import RunnerConfig
from runner.options.serve import task as serve
from runner.options.serve.keys import ServeConfig
from runner_base.errors import ConfigError

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


def until_draining(server: Serving) -> None:
    """Wait until a server has taken in the signal that it was sent."""
    end = time.monotonic() + WAIT_S
    while server.ask("/health") != (503, {"status": "draining"}):
        assert time.monotonic() < end
        time.sleep(0.02)


# ------------------------------------------------------------------------------------ before a load


@pytest.mark.parametrize(
    "keys",
    [
        {"port": 70000},
        {"host": " "},
        {"max_open": 0},
        {"timeout_s": 0},
        {"idle_timeout_s": 0},
        {"write_timeout_s": 0},
        {"max_connections": 0},
        {"drain_timeout_s": -1},
        {"model_name": ""},
    ],
)
def test_keys_are_checked(keys: dict[str, Any]) -> None:
    (key,) = keys
    with raises(ConfigError, "bad_value", f"task.{key}"):
        ServeConfig(**keys)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.7.7", "::", "example.org"])
def test_an_address_that_others_reach_needs_a_key(
    make_config: Make, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(task=ServeConfig(host=host, port=0))
    with raises(ConfigError, "missing", "task.host"):
        serve.prepare(config)
    monkeypatch.setenv("RUNNER_API_KEY", "  ")
    with raises(ConfigError, "missing", "task.host"):
        serve.prepare(config)


def test_a_key_that_no_header_carries_is_refused_and_not_shown(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_API_KEY", "geh heim")
    with raises(ConfigError, "bad_value") as refused:
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
        assert (
            f"error: task.port={port}: Address already in use at 127.0.0.1. End the program that uses this port"
            in done.err
        )
    with raises(ConfigError, "bad_value", "task.host"):
        serve.bind_socket(ServeConfig(host="8.8.8.8"))
    with raises(ConfigError, "bad_value", "task.host"):
        serve.bind_socket(ServeConfig(host="no.such.host.invalid"))


@pytest.mark.thorough
@SLOW
def test_a_grid_of_servers_is_impossible(runner: Any) -> None:
    done = runner(
        "-m", "task=serve", "task.port=0", "model=stub", "generation.max_new_tokens=1,2", "tracking=none"
    )
    assert done.code == 2
    assert "task=serve runs until you stop it, so it cannot be part of a grid" in done.err


# ------------------------------------------------------------------------------------------- ends,
# restarts


@pytest.mark.thorough
@SLOW
def test_a_server_that_is_asked_to_stop_ends_its_open_answers_first(
    tmp_path: Path, new_database: NewDatabase
) -> None:
    new_database(tmp_path / "outputs" / "mlflow.db")
    with serving(tmp_path, *FLOAT32, "task.port=0") as server:
        assert server.ask("/v1/completions", {"prompt": "7", "max_tokens": 4})[0] == 200
        assert server.ask("/v1/completions", {"prompt": ""})[0] == 400
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(server.ask, "/v1/completions", LONG | {"max_tokens": 900, "n": 8})
            server.until(lambda now: now["runner_rows_alive"] == 8)
            server.process.send_signal(signal.SIGTERM)
            until_draining(server)
            status, answer = server.ask("/v1/completions", {"prompt": "7"})
            assert (status, answer["error"]["message"]) == (
                503,
                "the server is shutting down and accepts no new requests",
            )
            assert server.ask("/health") == (503, {"status": "draining"})
            status, answer = slow.result()
        assert (status, answer["usage"]["completion_tokens"]) == (200, 7200)
        assert server.process.wait(60) == 0
        assert (
            "4 in total · 2 answered · 1 refused · 0 cancelled by the client · 1 invalid · 0 failed"
            in server.out
        ), server.out
        assert "Traceback" not in server.err
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["requests"] == 4
    assert run.data.metrics["new_tokens"] == 7204
    assert run.data.metrics["peak_rows"] >= 1


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["drain_timeout_s", "second signal"])
@SLOW
def test_who_is_not_ready_in_time_is_told(tmp_path: Path, how: str) -> None:
    # in which all answers would be complete
    drain = "task.drain_timeout_s=0.5" if how == "drain_timeout_s" else "task.drain_timeout_s=3600"
    with serving(tmp_path, *FLOAT32, "tracking=none", drain) as server, ThreadPoolExecutor(2) as pool:
        body = LONG | {"n": 16}
        whole = pool.submit(server.ask, "/v1/completions", body)
        stream = pool.submit(server.ask, "/v1/completions", body | {"stream": True})
        server.until(lambda now: now["runner_rows_alive"] == 32)
        server.process.send_signal(signal.SIGINT)
        if how != "drain_timeout_s":
            until_draining(server)
            server.process.send_signal(signal.SIGTERM)
        status, answer = whole.result()
        assert (status, answer["error"]["message"]) == (
            503,
            "the server is shutting down, so the answer is incomplete",
        )
        assert "the answer is incomplete" in stream.result()[1]
        assert server.process.wait(60) == 0
        assert "0 answered" not in server.out, "a stream that was begun has its status"
        assert "task=serve" in server.out


@pytest.mark.thorough
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


@pytest.mark.thorough
@SLOW
def test_a_signal_while_the_model_loads_ends_it_as_any_job(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runner", "task=serve", "task.port=0", "tracking=none"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("outputs/jobs/*/config.yaml")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, "")
    assert "interrupted" in err
    assert "Traceback" not in err


# ------------------------------------------------------------------------------------------ the key


@pytest.mark.thorough
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
        assert server.ask("/v1/completions", b"{", Host="evil.example")[0] == 400, (
            "with a key, any name will do"
        )
        server.ask(f"/v1/models/{KEY}")
        assert "clients need the key in RUNNER_API_KEY" in server.err
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


# ------------------------------------------------------------------------------------------- other
# engines


@pytest.mark.thorough
@SLOW
def test_the_stub_serves_and_is_named_as_asked(tmp_path: Path) -> None:
    with serving(tmp_path, *STUB, "task.model_name=mine", "model.delay_s=0.3") as server:
        assert server.ask("/v1/models")[1]["data"][0]["id"] == "mine"
        asked = [
            threading.Thread(target=server.ask, args=("/v1/completions", {"prompt": "x"})) for _ in range(3)
        ]
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join()
        assert server.metrics()['runner_requests_total{path="/v1/completions",status="200"}'] == 3
        assert server.stop(signal.SIGHUP) == 0
    assert os.listdir(tmp_path / "outputs" / "jobs")

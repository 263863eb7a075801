"""A pipeline over two hosts, each a network namespace: equal answers, and what is seen when one
vanishes."""

from __future__ import annotations

import json
import os
import resource
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, two_hosts
from in_parts import Make, answers, generate, prompt_file, whole
from stages import save_family, split_into
from transformers import AutoTokenizer

from runner.options.parts.pipeline import machines
from runner.options.parts.pipeline.machines import SILENT_S, exchange_heartbeats, find_network_interface
from runner.records.jobs import read_samples

WAIT_S = 200
EXIT_S = 25.0  # for Python, torchrun and a busy machine, besides the time that the runner waits
PORT = "29500"
RING = Path(__file__).parents[3] / "support" / "ring_logits.py"
THOROUGH = pytest.mark.thorough
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    return prompt_file(tmp_path_factory.mktemp("prompts"))


class Run:
    """One command on both hosts, as a user types it."""

    def __init__(self, hosts: tuple[Host, Host], *words: str) -> None:
        first = hosts[0].address
        self.processes = [
            host.start("-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={number}", "--nproc-per-node=1",
                       f"--master-addr={first}", f"--master-port={PORT}", *words,
                       env=os.environ | {"OMP_NUM_THREADS": "1"})
            for number, host in enumerate(hosts)
        ]  # fmt: skip
        self.output: dict[int, tuple[str, str]] = {}
        self.ended: dict[int, float] = {}
        self._readers = [
            threading.Thread(target=self._read, args=(number,), daemon=True) for number in (0, 1)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, number: int) -> None:
        self.output[number] = self.processes[number].communicate()
        self.ended[number] = time.monotonic()

    def wait(self) -> list[int]:
        """Return both exit codes."""
        for reader in self._readers:
            reader.join(WAIT_S)
        assert len(self.ended) == 2, "both sides end"
        return [process.returncode for process in self.processes]

    def errors(self, number: int) -> list[str]:
        """Return the messages of one host."""
        return [line for line in self.output[number][1].splitlines() if line.startswith("error:")]


@pytest.fixture
def job(parts: Path, prompts: str, tmp_path: Path) -> Callable[..., Run]:
    """Return a function that starts a job over both hosts."""

    def job(hosts: tuple[Host, Host], *more: str, model: Path = parts) -> Run:
        words = ["-m", "runner", "task=generate", "model=parts", f"model.name={model}", f"task.prompts={prompts}",
                 "task.format=raw", "model.device=cpu", "model.dtype=float32", "tracking=none", "print=json",
                 f"output_dir={tmp_path}/o"]  # fmt: skip
        return Run(hosts, *words, *more)

    return job


SHORT = ("generation.max_new_tokens=12",)
LIMIT_MIB = 1050
# a prompt after the other, so that faults come amid it
LONG = ("generation.max_new_tokens=100", "model.micro_batch=1")


def lines(tmp_path: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in tmp_path.glob("o/jobs/*/samples.jsonl"))


def until_amid(tmp_path: Path, run: Run) -> None:
    """Wait until a first answer is kept, and more are to come."""
    end = time.monotonic() + WAIT_S
    while not lines(tmp_path):
        assert not run.ended, run.output
        assert time.monotonic() < end
        time.sleep(0.02)


def stored(tmp_path: Path) -> list[tuple[Any, ...]]:
    [file] = tmp_path.glob("o/jobs/*/samples.jsonl")
    samples = read_samples(file)
    return [(index, one.prompt_sha256, one.answer) for index, one in sorted(samples.items())]


def expected(make: Make, model: Path, prompts: str, words: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Return the answers of the whole model in this process."""
    from runner_engine.settings.generation import GenerationConfig

    limit = int(words[0].partition("=")[2])
    return answers(generate(make, whole(model), prompts, GenerationConfig(max_new_tokens=limit)))


@pytest.mark.thorough
def test_a_slow_link_that_loses_packets_changes_no_token(
    make_config: Make, model: Path, prompts: str, job: Any, tmp_path: Path
) -> None:
    with two_hosts(delay_s=0.02, loss=0.01) as hosts:
        run = job(hosts, *SHORT)
        assert run.wait() == [0, 0], run.output
    [line] = run.output[0][0].splitlines()
    assert json.loads(line)["metrics"]["processes"] == 2
    assert run.output[1][0] == "", "the job's output is on the first host only"
    assert stored(tmp_path) == expected(make_config, model, prompts, SHORT)


@THOROUGH
def test_the_logits_over_a_slow_link_are_the_same_bits(tmp_path: Path) -> None:
    model = save_family(tmp_path / "model", "llama")
    parts = split_into(model, tmp_path / "parts", 2)
    with two_hosts(delay_s=0.02, loss=0.01) as hosts:
        run = Run(hosts, str(RING), str(model), str(parts))
        assert run.wait() == [0, 0], run.output
    [line] = [json.loads(line) for line in run.output[0][0].splitlines() if line.startswith("{")]
    assert (line["processes"], line["delta"], line["same_tokens"]) == (2, 0.0, True)


def message_after_a_kill(job: Any, tmp_path: Path, killed: int) -> tuple[str, str]:
    """Kill one host's processes amid a job; return the other's message and the killed one's
    address."""
    left = 1 - killed
    with two_hosts() as hosts:
        run = job(hosts, *LONG)
        until_amid(tmp_path, run)
        began = time.monotonic()
        hosts[killed].kill_all()
        assert run.wait()[left] == 1
    assert run.ended[left] - began < EXIT_S
    [message] = run.errors(left)
    return message, hosts[killed].address


@THOROUGH
def test_a_host_whose_processes_are_killed_is_one_message_on_the_first(job: Any, tmp_path: Path) -> None:
    message, address = message_after_a_kill(job, tmp_path, killed=1)
    assert message.startswith(
        f"error: process 1 of 2 (parts 2-3, layers 2-3) at {address} ended without an error message. The system probably killed"
    )
    [record] = tmp_path.glob("o/jobs/*/result.json")
    assert json.loads(record.read_text())["status"] == "FAILED"


@THOROUGH
def test_a_killed_first_host_is_one_message_on_the_other(job: Any, tmp_path: Path) -> None:
    message, address = message_after_a_kill(job, tmp_path, killed=0)
    assert f"see the output of process 0 at {address}" in message


@THOROUGH
def test_a_host_that_vanishes_without_a_word_ends_both_sides_and_the_same_command_resumes(
    make_config: Make, model: Path, prompts: str, job: Any, tmp_path: Path
) -> None:
    with two_hosts() as hosts:
        run = job(hosts, *LONG)
        until_amid(tmp_path, run)
        cut = time.monotonic()
        hosts[1].link("down")  # no packet says so
        assert run.wait() == [1, 1]
        for number in (0, 1):
            assert SILENT_S - 2 < run.ended[number] - cut < SILENT_S + EXIT_S
        [first], [second] = run.errors(0), run.errors(1)
        heard = f"has not responded for {SILENT_S:g} s: the machine or the network connection has failed"
        assert f"process 1 of 2 (parts 2-3, layers 2-3) at {hosts[1].address} {heard}" in first
        assert f"process 1 of 2: the job's process 0 at {hosts[0].address} {heard}" in second
        kept = lines(tmp_path)
        assert 0 < kept < 8
        hosts[1].link("up")
        again = job(hosts, *LONG)
        assert again.wait() == [0, 0], again.output
    assert lines(tmp_path) == 8, "what was kept is not computed again"
    assert stored(tmp_path) == expected(make_config, model, prompts, LONG)


@THOROUGH
def test_a_short_interruption_of_the_network_costs_nothing_but_time(
    make_config: Make, model: Path, prompts: str, job: Any, tmp_path: Path
) -> None:
    with two_hosts(delay_s=0.005) as hosts:
        run = job(hosts, *LONG)
        until_amid(tmp_path, run)
        before = lines(tmp_path)
        hosts[1].link("down")
        time.sleep(5)
        assert lines(tmp_path) <= before + 1, "the link is down: nothing goes on"
        hosts[1].link("up")
        assert run.wait() == [0, 0], run.output
    assert stored(tmp_path) == expected(make_config, model, prompts, LONG)


@THOROUGH
def test_a_model_too_large_for_one_host_runs_on_two(
    tiny_llama: Path, prompts: str, job: Any, tmp_path: Path
) -> None:
    """600 MiB of weights in float32; a host has room for Python, torch and torchrun, and for half
    of them."""
    keys = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12}
    model = save_family(tmp_path / "model", "llama", dtype="bfloat16", **keys)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(model)
    parts = split_into(model, tmp_path / "parts", 2)
    with two_hosts() as hosts:
        for host in hosts:
            host.limit_memory(LIMIT_MIB)
        words = [
            "task=generate",
            "model=parts",
            f"model.name={parts}",
            f"task.prompts={prompts}",
            "task.format=raw",
        ]
        words += [
            "model.device=cpu",
            "model.dtype=float32",
            "tracking=none",
            f"output_dir={tmp_path}/alone",
            *SHORT,
        ]
        words += ["model.check_memory=false"]
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m", "runner"]
        alone = hosts[0].start(*launch, *words)
        _, errors = alone.communicate(timeout=WAIT_S)
        assert alone.returncode == 1
        assert "SIGKILL" in errors, "the kernel kills a process that exceeds the limit"
        run = job(hosts, *SHORT, model=parts)
        assert run.wait() == [0, 0], run.output
    assert lines(tmp_path) == 8


def test_the_interface_of_an_address() -> None:
    assert find_network_interface("127.0.0.1") == "lo"
    assert find_network_interface("192.0.2.1") is None, "an address for documentation"


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> machines.HeartbeatServer:
    """The first process of three, which expects processes 1 and 2 from elsewhere."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", PORT)
    return machines.HeartbeatServer(range(1, 3))


def say_hello(others: machines.HeartbeatServer, said: bytes) -> socket.socket:
    """Connect and say this; nothing more is said or read."""
    connection = socket.create_connection((others.address, others.port), timeout=WAIT_S)
    connection.sendall(said)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Wait for what the first process does: it closes, or it sends its first sign of life."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_process_from_elsewhere_needs_the_token_and_a_rank_that_is_expected(
    others: machines.HeartbeatServer,
) -> None:
    token = bytes.fromhex(others.token)
    hello = machines.HELLO.pack
    with say_hello(others, b"GE"):
        pass
    refused = (
        hello(7, token),
        hello(0, token),
        hello(-1, token),
        hello(1, bytes(16)),
        b"GET / HTTP/1.1\r\n\r\n" * 2,
    )
    for said in refused:
        with say_hello(others, said) as stranger:
            assert is_closed(stranger), said
    with say_hello(others, hello(1, token)) as process:
        assert not is_closed(process)
        with say_hello(others, hello(1, token)) as second:
            assert is_closed(second), "one connection a rank"
        assert (others.addresses, others.silent) == ({1: "127.0.0.1"}, set())


def test_silent_strangers_get_no_threads_and_keep_nobody_out(others: machines.HeartbeatServer) -> None:
    # a thread of an earlier test may end meanwhile
    before = set(threading.enumerate())
    strangers = [say_hello(others, b"\0") for _ in range(5 * machines.MAX_STRANGERS)]
    try:
        with say_hello(others, machines.HELLO.pack(2, bytes.fromhex(others.token))) as process:
            assert not is_closed(process)
            assert list(others.addresses) == [2]
            started = set(threading.enumerate()) - before
            assert len(started) == 1, "one for the process, none for the strangers"
            assert is_closed(strangers[0]), "the oldest strangers make room"
    finally:
        for stranger in strangers:
            stranger.close()


def test_a_failed_accept_does_not_end_the_watch(
    others: machines.HeartbeatServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", machines.__name__)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first, process = socket.socket(), socket.socket()
    with first, process, socket.socket() as probe:
        # no file can be opened any more
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe.fileno(), hard))
        try:
            first.connect((others.address, others.port))
            while not caplog.records:
                time.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "Too many open files" in str(caplog.records[0].exc_info)
        process.settimeout(WAIT_S)
        process.connect((others.address, others.port))
        process.sendall(machines.HELLO.pack(1, bytes.fromhex(others.token)))
        assert not is_closed(process)
    assert list(others.addresses) == [1]


def test_silence_and_an_orderly_end_are_different_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "SILENT_S", 0.3)
    monkeypatch.setattr(machines, "BEAT_S", 0.05)
    one, other = socket.socketpair()
    with one, other:
        assert exchange_heartbeats(one), "nobody answers"
    one, other = socket.socketpair()
    results: list[bool] = []
    with one, other:
        sides = [
            threading.Thread(target=lambda side=side: results.append(exchange_heartbeats(side)))
            for side in (one, other)
        ]
        for side in sides:
            side.start()
        time.sleep(1)
        assert results == [], "both are heard"
        other.shutdown(socket.SHUT_RDWR)
        for side in sides:
            side.join(10)
    assert results == [False, False]

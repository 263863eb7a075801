"""The processes of a pipeline: the same answers as with one process, and what happens if one dies
or hangs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copytree
from typing import Any, cast

import pytest
from in_parts import SAMPLED, Make, answers, generate, in_parts, prompt_file, whole
from raising import raises

from runner.options.parts.pipeline.engine import PipelineEngine, name_dead_process
from runner.options.parts.pipeline.processes import PeerProcesses
from runner.options.parts.pipeline.transport import Packet, PacketType, Transport
from runner.records.jobs import read_samples
from runner_base import signals
from runner_base.errors import DataError, JobFailed
from runner_engine.sessions import contract
from runner_engine.sessions.base import Request

WAIT_S = 200
LOOPBACK, LOOPBACK_6 = "0100007F", "0000000000000000FFFF00000100007F"  # 127.0.0.1, ::ffff:127.0.0.1
THOROUGH = pytest.mark.thorough


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    return prompt_file(tmp_path_factory.mktemp("prompts"))


def command(parts: Path, *more: str) -> list[str]:
    return ["-m", "runner", "task=generate", "model=parts", f"model.name={parts}", "task.format=raw",
            "model.device=cpu", "model.dtype=float32", "tracking=none", *more]  # fmt: skip


@pytest.mark.thorough
@pytest.mark.usefixtures("warm_children")
@pytest.mark.slow
@pytest.mark.parametrize("processes", [*(pytest.param(n, marks=THOROUGH) for n in (2, 4)), 3])
def test_several_processes_give_the_same_answers(
    make_config: Make, model: Path, parts: Path, prompts: str, processes: int
) -> None:
    expected = answers(generate(make_config, whole(model), prompts, SAMPLED))
    record = generate(make_config, in_parts(parts, stages=processes, micro_batch=2), prompts, SAMPLED)
    assert answers(record) == expected
    metrics, rows = record.result.metrics, record.result.tables["the parts of the model"]
    assert metrics["processes"] == processes
    assert sorted({row["process"] for row in rows}) == list(range(processes))
    assert [row["part"] for row in rows] == [0, 1, 2, 3]
    assert 0 <= metrics["bubble_share"] < 1
    assert metrics["sum_peak_rss_mib"] > metrics["peak_rss_mib"] > 0
    assert record.result.facts["processes"] == f"{processes}, started here, over gloo"
    assert not list(Path(record.output_dir).glob("process_*.log"))
    assert children() == []


def children(parent: int | None = None) -> list[int]:
    """Return the living stage processes of a parent."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_text()
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if "stage_process" in line and fields[0] != "Z" and int(fields[1]) == (parent or os.getpid()):
            pids.append(int(entry.name))
    return sorted(pids)


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
    return value


@pytest.fixture
def decoding(parts: Path, prompts: str, tmp_path: Path, warm_children: None) -> Any:
    """Start a long pipeline as its own process; yield it with the stages' pids once it is
    decoding."""
    out = tmp_path / "outputs"
    arguments = [
        "generation.max_new_tokens=100",
        f"task.prompts={prompts}",
        "model.micro_batch=1",
        f"output_dir={out}",
    ]
    arguments += ["model.stages=4", "print=json"]
    process = subprocess.Popen(
        [sys.executable, *command(parts, *arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(
            lambda: list(out.glob("jobs/*/samples.jsonl")) or process.poll() is not None, "a first completion"
        )
        assert process.poll() is None, process.communicate()
        yield process, children(process.pid), out
    finally:
        process.kill()
        process.communicate()


def listening(pid: int) -> list[str]:
    """Return the addresses, as the kernel writes them, on which a process listens."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(entry))
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in links]


@pytest.mark.thorough
@pytest.mark.slow
def test_a_pipeline_on_one_machine_listens_only_there(decoding: Any) -> None:
    process, stages, _ = decoding
    addresses = [address for pid in (process.pid, *stages) for address in listening(pid)]
    assert addresses, "its store, and the ring"
    assert set(addresses) <= {LOOPBACK, LOOPBACK_6}, "nobody outside of this machine can connect"
    process.kill()
    process.communicate()


def gone(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("victim", [pytest.param(0, marks=THOROUGH), 1, pytest.param(2, marks=THOROUGH)])
def test_a_killed_process_ends_the_pipeline(decoding: Any, victim: int) -> None:
    process, pids, out = decoding
    assert len(pids) == 3
    os.kill(pids[victim], signal.SIGKILL)
    output, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1, errors
    assert output == ""
    rank = victim + 1  # they were started in this order
    assert f"error: process {rank} of 4 (part {rank}, layers {rank}-{rank}) was killed by SIGKILL" in errors
    assert "Traceback" not in errors
    until(lambda: all(gone(pid) for pid in pids), "all stages gone")
    [record] = out.glob("jobs/*/result.json")
    assert json.loads(record.read_text())["status"] == "FAILED"


@pytest.mark.thorough
@pytest.mark.slow
def test_ctrl_c_ends_all(decoding: Any) -> None:
    process, pids, out = decoding
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, errors
    assert re.search(r"interrupted: \d+ kept", errors), errors
    until(lambda: all(gone(pid) for pid in pids), "all stages gone")
    [record] = out.glob("jobs/*/result.json")
    assert json.loads(record.read_text())["status"] == "KILLED"


@pytest.mark.slow
def test_no_stage_outlives_a_first_process_that_is_killed(decoding: Any) -> None:
    process, pids, _ = decoding
    process.kill()
    process.wait()
    until(lambda: all(gone(pid) for pid in pids), "all stages gone")


@pytest.mark.usefixtures("warm_children")
@pytest.mark.slow
def test_a_process_that_hangs_is_noticed(make_config: Make, parts: Path, tmp_path: Path) -> None:
    engine = PipelineEngine(make_config(model=in_parts(parts, stages=2, timeout_s=3.0)), tmp_path)
    try:
        engine.load()
        [pid] = children()
        os.kill(pid, signal.SIGSTOP)
        with raises(JobFailed, "failed"):
            list(contract.complete_requests(engine, [Request(0, "one")]))
    finally:
        engine.close()
    assert gone(pid)


@pytest.mark.usefixtures("warm_children")
@pytest.mark.slow
def test_the_error_of_a_process_that_cannot_load_is_reported(
    make_config: Make, parts: Path, prompts: str, tmp_path: Path
) -> None:
    broken = Path(copytree(parts, tmp_path / "broken"))
    file = broken / "part_2.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with raises(DataError, "damaged") as caught:
        generate(make_config, in_parts(broken, stages=4), prompts)
    assert caught.value.reason.startswith("process 2 of 4")
    assert children() == []


@pytest.mark.thorough
@pytest.mark.usefixtures("warm_children")
@pytest.mark.slow
def test_torchrun(make_config: Make, model: Path, parts: Path, prompts: str, tmp_path: Path) -> None:
    expected = answers(generate(make_config, whole(model), prompts))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = command(
        parts,
        f"task.prompts={prompts}",
        "generation.max_new_tokens=12",
        "print=json",
        f"output_dir={tmp_path}/o",
    )

    def start() -> dict[str, Any]:
        done = subprocess.run(
            [*launch, *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        [line] = done.stdout.splitlines()  # the others are silent
        values: dict[str, Any] = json.loads(line)
        return values

    values = start()
    stored = read_samples(Path(values["output_dir"]) / "samples.jsonl")
    assert [(index, one.prompt_sha256, one.answer) for index, one in sorted(stored.items())] == expected
    assert values["metrics"]["processes"] == 2
    assert start()["job_id"] == values["job_id"], "done already: the other processes exit, too"
    too_many = [*launch[:-1], "--nproc-per-node=5", *arguments, "rerun=all"]
    done = subprocess.run(too_many, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 1
    assert "Use at most 4 processes, or split into more parts" in done.stderr


@THOROUGH
def test_a_killed_process_of_torchrun_ends_the_pipeline(parts: Path, prompts: str, tmp_path: Path) -> None:
    out = tmp_path / "outputs"
    arguments = [
        "generation.max_new_tokens=200",
        f"task.prompts={prompts}",
        "model.micro_batch=1",
        f"output_dir={out}",
    ]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    process = subprocess.Popen(
        [*launch, *command(parts, *arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until(
            lambda: list(out.glob("jobs/*/samples.jsonl")) or process.poll() is not None, "a first completion"
        )
        ranks = {rank: pid for pid in workers(process.pid) if (rank := variable(pid, "RANK"))}
        assert sorted(ranks) == ["0", "1", "2"]
        os.kill(ranks["1"], signal.SIGKILL)
        output, errors = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert output == ""
    assert re.search(r"error: process 1 of 3 \(parts? 1.*\) ended without an error message", errors), errors
    until(lambda: all(gone(pid) for pid in ranks.values()), "all processes gone")
    [record] = out.glob("jobs/*/result.json")
    assert json.loads(record.read_text())["status"] == "FAILED"


def test_a_signal_of_torchrun_that_waits_for_a_step_is_told_by_what_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if the step was done before: outside of it the signal would be an interrupt that nobody
    has wished."""

    class Peers:
        def check_alive(self) -> None:
            raise JobFailed("process 1 of 2 ended without a message", code="failed")

    monkeypatch.setattr("runner.options.parts.pipeline.processes.terminated_at", time.monotonic())
    step = signals.defer_signals_until_step_ends(), name_dead_process(cast(PeerProcesses, Peers()), None)
    with (
        signals.defer_signals(),
        signals.interruptible_block(),
        pytest.raises(JobFailed, match="process 1 of 2"),
        step[0],
        step[1],
    ):
        signals.handle_signal(signal.SIGTERM)


def workers(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def variable(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next((line.partition("=")[2] for line in lines if line.startswith(f"{name}=")), "")


@pytest.mark.thorough
@pytest.mark.usefixtures("warm_children")
@pytest.mark.slow
def test_an_idle_pipeline_keeps_its_connections_in_use(
    make_config: Make, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may wait longer for its next request than a process waits for its next packet."""
    sent: list[PacketType] = []
    send = Transport.send

    def recording(self: Transport, packet: Packet) -> None:
        sent.append(packet.kind)
        send(self, packet)

    monkeypatch.setattr(Transport, "send", recording)
    engine = PipelineEngine(make_config(model=in_parts(parts, stages=2, timeout_s=2.0)))
    try:
        engine.load()
        until(lambda: sent.count(PacketType.alive) >= 2, "a second packet, after the first has returned")
        engine.stages.timeout_s = 60.0  # the short limit was for the packets only: an answer may take longer
        [done] = contract.complete_requests(engine, [Request(0, "one", max_new_tokens=3)])
        assert len(done.answer.token_ids) == 3
    finally:
        engine.close()
    assert children() == []

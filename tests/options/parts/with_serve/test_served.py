"""model=parts behind task=serve, both of them options: answers, streams, cancelling, the death of a
stage process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import warm_process
from serving import FLOAT32, WAIT_S, Serving, serving
from stages import split_into

from runner.library.load import load
from runner.library.model import Model
from runner_base.errors import JobFailed
from runner_engine.embedded import MODEL_DIR

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

CHAT = [{"role": "user", "content": "Ann has 3 apples and buys 4 more. How many apples does she have?"}]
LONG = {"prompt": "Once", "max_tokens": 900, "ignore_eos": True}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_into(MODEL_DIR, tmp_path_factory.mktemp("served") / "parts", 2)


def over(parts: Path) -> tuple[str, ...]:
    return ("model=parts", f"model.name={parts}", "tracking=none", "task.model_name=it", *FLOAT32)


@pytest.fixture(scope="module")
def server(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("server"), *over(parts)) as started:
        yield started


@pytest.fixture(scope="module")
def whole() -> Iterator[Model]:
    with load("embedded", dtype="float32") as model:
        yield model


def text_of(stream: str) -> str:
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(it["choices"][0]["delta"].get("content") or "" for it in chunks if it["choices"])


def stage_process(parent: int) -> int:
    """Return the one process that a server of two parts has started."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_child = (entry / "stat").read_text().rpartition(")")[2].split()[1] == str(parent)
            if is_child and "stage_process" in (entry / "cmdline").read_text():
                pids.append(int(entry.name))
    [pid] = pids
    return pid


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {
            "temperature": 0.9,
            "seed": 3,
            "top_p": 0.9,
            "min_p": 0.02,
            "frequency_penalty": 0.4,
            "presence_penalty": 0.2,
        },
    ],
    ids=["greedy", "sampled"],
)
def test_chats_are_answered_as_by_the_whole_model(
    server: Serving, whole: Model, sampling: dict[str, Any]
) -> None:
    body = {"model": "it", "messages": CHAT, "max_tokens": 40} | sampling
    status, answer = server.ask("/v1/chat/completions", body)
    assert status == 200, answer
    text = answer["choices"][0]["message"]["content"]
    assert text == whole.chat(CHAT, max_new_tokens=40, **sampling)
    status, stream = server.ask("/v1/chat/completions", body | {"stream": True})
    assert status == 200
    assert text_of(stream) == text


@pytest.mark.thorough
@pytest.mark.slow
def test_several_clients_and_choices_at_once(server: Serving) -> None:
    body = {"model": "it", "messages": CHAT, "max_tokens": 20, "temperature": 1.0, "seed": 1, "n": 3}
    alone = server.ask("/v1/chat/completions", body)[1]["choices"]
    with ThreadPoolExecutor(4) as clients:
        answers = [clients.submit(server.ask, "/v1/chat/completions", body) for _ in range(4)]
        together = [one.result()[1]["choices"] for one in answers]
    assert [[it["message"] for it in choices] for choices in together] == [
        [it["message"] for it in alone]
    ] * 4
    assert len({it["message"]["content"] for it in alone}) == 3


@pytest.mark.slow
def test_a_client_that_leaves_is_cancelled_and_others_are_answered(server: Serving) -> None:
    before = server.metrics()["runner_clients_left_total"]
    connection = server.open_stream("/v1/completions", LONG | {"model": "it"})
    connection.sock.close()
    connection.close()
    server.until(
        lambda now: (
            now["runner_open"] == now["runner_rows_alive"] == 0
            and now["runner_clients_left_total"] == before + 1
        )
    )
    status, answer = server.ask("/v1/completions", {"model": "it", "prompt": "Once", "max_tokens": 3})
    assert status == 200, answer


@pytest.mark.slow
def test_what_parts_cannot_do_is_refused(server: Serving) -> None:
    body = {"model": "it", "messages": CHAT, "max_tokens": 4, "logprobs": True}
    status, answer = server.ask("/v1/chat/completions", body)
    assert status == 400
    assert "log-probabilities" in answer["error"]["message"]


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
def test_a_server_ends_with_the_name_of_the_process_that_died(
    parts: Path, tmp_path: Path, is_busy: bool
) -> None:
    with serving(tmp_path, *over(parts)) as one:
        stream = one.open_stream("/v1/completions", LONG | {"model": "it"}) if is_busy else None
        os.kill(stage_process(one.process.pid), signal.SIGKILL)
        assert one.process.wait(WAIT_S) == 1
        if stream is not None:
            answer = stream.answer.read().decode()  # type: ignore[attr-defined]
            assert "process 1 of 2" in answer, "its client gets the error, too"
            stream.close()
        assert "error: process 1 of 2 (part 1, layers 2-3) was killed by SIGKILL" in one.err
        assert "Traceback" not in one.err
        [record] = tmp_path.glob("outputs/jobs/*/result.json")
        assert json.loads(record.read_text())["status"] == "FAILED"


@pytest.mark.slow
def test_the_record_of_a_served_job_has_its_parts(parts: Path, tmp_path: Path) -> None:
    with serving(tmp_path, *over(parts), "model.stages=1") as one:
        assert one.ask("/v1/completions", {"model": "it", "prompt": "Once", "max_tokens": 3})[0] == 200
        assert one.stop() == 0
    [record] = tmp_path.glob("outputs/jobs/*/result.json")
    result = json.loads(record.read_text())["result"]
    assert [row["part"] for row in result["tables"]["the parts of the model"]] == [0, 1]
    assert result["metrics"]["num_parts"] == 2
    assert 0 <= result["metrics"]["bubble_share"] < 1


@pytest.mark.thorough
@pytest.mark.slow
def test_a_conversation_ends_with_the_name_of_the_process_that_died(parts: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "runner",
        "task=chat",
        "generation.max_new_tokens=4",
        *over(parts)[:3],
        *FLOAT32,
    ]
    chat = warm_process.popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert chat.stdin is not None
        chat.stdin.write(b"Hello\n")
        chat.stdin.flush()
        end = time.monotonic() + WAIT_S
        while not [*tmp_path.glob("outputs/jobs/*/samples.jsonl")]:
            assert time.monotonic() < end
            time.sleep(0.05)
        os.kill(stage_process(chat.pid), signal.SIGKILL)
        _, errors = chat.communicate(b"and then?\nstill there?\n", timeout=WAIT_S)
    finally:
        chat.kill()
        chat.wait()
    assert chat.returncode == 1
    assert errors.decode().count("process 1 of 2 (part 1, layers 2-3) was killed by SIGKILL") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_python_gets_an_error_that_names_the_process(parts: Path) -> None:
    with load("parts", name=parts, dtype="float32") as model:
        assert model.chat(CHAT, max_new_tokens=3)
        os.kill(stage_process(os.getpid()), signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(
                JobFailed, match=r"process 1 of 2 \(part 1, layers 2-3\) was killed by SIGKILL"
            ):
                model.chat(CHAT, max_new_tokens=3)

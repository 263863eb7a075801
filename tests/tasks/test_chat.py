"""Conversations through a pipe and in a real (pseudo) terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import warm_process
from thoughtful import thinking_model

from runner.records.jobs import read_samples
from runner_base.result import FinishReason, Sample
from runner_engine.sessions.base import prompt_sha256

WAIT_S = 90
LONG = 16_384
FIRST = "Ann has 3 apples and buys 4 more. How many apples does she have?"


@pytest.fixture(scope="session")
def chatty(saved_family: Callable[..., Path]) -> Path:
    """A random model with room for a long answer; what it says are random bytes, control characters
    among them."""
    return saved_family("llama", max_position_embeddings=LONG)


def piped(folder: Path, said: str | bytes, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runner", "task=chat", "tracking=none", "print=json", *arguments]
    data = said if isinstance(said, bytes) else said.encode()
    done = warm_process.complete(command, data, cwd=folder)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def samples(folder: Path) -> dict[int, Sample]:
    (path,) = folder.glob("outputs/jobs/*/samples.jsonl")
    return read_samples(path)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_conversation_through_a_pipe(tmp_path: Path) -> None:
    said = f"{FIRST}\n/stats\nand then?\n/stats\n/save c.json\n/reset\nagain\n/load c.json\n/set generation.max_new_tokens=3\nmore\nquit\nnot heard\n"
    done = piped(tmp_path, said, "generation.max_new_tokens=12", "task.system=Be brief.")
    assert done.returncode == 0, done.stderr
    kept = samples(tmp_path)
    assert [kept[index].question for index in range(4)] == [FIRST, "and then?", "again", "more"]
    assert [len(sample.answer.token_ids) for sample in kept.values()] == [11, 12, 12, 3]
    messages = json.loads((tmp_path / "c.json").read_text())["messages"]
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 2]
    assert messages[2]["content"] == kept[0].answer.text
    assert kept[2].prompt_tokens < kept[1].prompt_tokens < kept[3].prompt_tokens, (
        "/reset forgets, /load remembers"
    )
    stats = [
        list(map(int, found))
        for found in re.findall(r"(\d+) prompt tokens: (\d+) cached, (\d+) computed", done.stderr)
    ]
    (first, second) = stats
    assert first[1] == 0
    assert second[1] == first[0] + 11 - 1, "all but the last token of the answer has been through the model"
    assert second[2] == second[0] - second[1]
    record = json.loads(done.stdout.splitlines()[-1])
    assert (record["metrics"]["n"], record["metrics"]["cut_off"], record["metrics"]["cancelled"]) == (4, 3, 0)


@pytest.mark.thorough
def test_wrong_commands_are_said_and_the_chat_goes_on(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mine")
    said = "/sett x\n/set depth=3\n/set temperature=warm\n/set temperature=11\n/set generation.top_k=-1\n/set max_new_tokens=0\n/load nothing.json\n/save own.txt\n/save\nHi\n"
    done = piped(tmp_path, said, "model=stub")
    assert done.returncode == 0
    for words in (
        "/sett: no command '/sett'. Did you mean /set?",
        "no setting 'depth'",
        "expected a number, found warm",
        "/set temperature=11: must be 0, or lie in 1e-10..10",
        "/set generation.top_k=-1: must be a whole number in 0..2147483647 (0 = off)",
        "/set max_new_tokens=0: must be 1 or more",
        "nothing.json cannot be read",
        "the file exists",
        "/save needs a file",
    ):
        assert words in done.stderr
    assert (tmp_path / "own.txt").read_text() == "mine"
    assert "[STUB_GENERATION]\nHi..." in done.stdout
    assert len(list(tmp_path.glob("outputs/jobs/*"))) == 1
    piped(tmp_path, "Hi\n", "model=stub")
    assert len(list(tmp_path.glob("outputs/jobs/*"))) == 2, "each conversation is kept"


@pytest.mark.thorough
def test_the_record_says_what_was_set_last(tmp_path: Path) -> None:
    done = piped(
        tmp_path, "/set temperature=0.5\nHi\n/set temperature=0.1\nHi\n", "generation=creative", "print=full"
    )
    assert done.returncode == 0, done.stderr
    assert "sampling" not in done.stdout, "stdout has the answers alone"
    (line,) = (line for line in done.stderr.splitlines() if line.lstrip().startswith("sampling"))
    assert line.rstrip().endswith("; by /set at the end temperature=0.1")


@pytest.mark.thorough
def test_lines_that_are_no_text_and_a_grid(tmp_path: Path, runner: Callable[..., Any]) -> None:
    done = piped(tmp_path, b"Hi\n\xff\xfe\n", "model=stub")
    assert done.returncode == 2
    assert "stdin, line 2: not UTF-8 text" in done.stderr
    refused = runner("task=chat", "model=stub", "seed=1,2", "-m")
    assert refused.code == 2
    assert "task=chat reads stdin, which jobs of a grid cannot do" in refused.err
    assert "without -m" in refused.err


@pytest.mark.thorough
@pytest.mark.slow
def test_a_model_without_a_chat_template(tmp_path: Path, saved_family: Callable[..., Path]) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for file in saved_family("llama").iterdir():
        if "chat_template" not in file.name:
            (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    done = piped(tmp_path, "Hi\nHo\n", "model=local", f"model.name={folder}", "generation.max_new_tokens=5")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: without a chat template") == 1
    assert "\nUser:" not in samples(tmp_path)[0].answer.text


ASKED = f"{FIRST} Solve it step by step. End with '#### ' and the number."


@pytest.mark.thorough
@pytest.mark.slow
def test_a_model_that_thinks(tmp_path: Path) -> None:
    model = thinking_model(tmp_path / "thinks")
    said = f"/set thinking_tokens=12\n{ASKED}\n/save c.json\nand then?\n/reset\n/load c.json\n/set thinking_tokens=-1\n"
    done = piped(
        tmp_path, said, "model=auto", f"model.name={model}", "generation.max_new_tokens=24", "print=none"
    )
    assert done.returncode == 0, done.stderr
    first, second = (sample.answer for sample in samples(tmp_path).values())
    assert (first.thinking_tokens, second.thinking_tokens) == (12, 12)
    assert first.thinking
    assert f"[thinking] {first.thinking.strip()}" in done.stderr
    assert done.stdout.rstrip("\n") == f"{first.text}\n{second.text}", "stdout has the answers alone"
    turns = json.loads((tmp_path / "c.json").read_text())["messages"]
    assert turns[1] == {
        "role": "assistant",
        "content": first.text.lstrip("\n"),
        "reasoning_content": first.thinking,
    }
    assert "2 messages loaded" in done.stderr
    assert "/set thinking_tokens=-1: must be 0 or more" in done.stderr
    turns = [("user", ASKED), ("assistant", first.text), ("user", "and then?")]
    prompt = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    seen = prompt_sha256(f"{prompt}<|im_start|>assistant\n<think>\n")
    assert samples(tmp_path)[1].prompt_sha256 == seen, "a template that reads no old thoughts gets none"


@pytest.mark.thorough
@pytest.mark.slow
def test_a_thought_is_dimmed_in_a_terminal(tmp_path: Path) -> None:
    model = thinking_model(tmp_path / "thinks")
    budget = ("generation.thinking_tokens=12", "generation.max_new_tokens=24")
    with terminal(tmp_path, "model=auto", f"model.name={model}", *budget) as screen:
        screen.until(rb"you> ")
        screen.type(f"{ASKED}\r")
        shown = screen.until(rb"you> ")
    (answer,) = (sample.answer for sample in samples(tmp_path).values())
    assert answer.thinking is not None
    dimmed = re.search(rb"\x1b\[2m(.*?)\x1b\[0m\r\n(.*)\r\n", shown, re.DOTALL)
    assert dimmed, shown
    assert dimmed[1].replace(b"\r\n", b"\n").decode() == answer.thinking.lstrip()
    assert answer.text in dimmed[2].replace(b"\r\n", b"\n").decode()


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "runner", "task=chat", "tracking=none", "print=none", *arguments]
        self.process = warm_process.popen(
            command,
            cwd=folder,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            close_fds=True,
        )
        os.close(slave)
        self.shown = b""

    def until(self, pattern: bytes) -> bytes:
        """Read until something is shown; what came before it is forgotten."""
        end = time.monotonic() + WAIT_S
        while not (found := re.search(pattern, self.shown)):
            assert time.monotonic() < end, self.shown
            if select.select([self.master], [], [], 1)[0]:
                self.shown += os.read(self.master, 65536)
        before, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@contextmanager
def terminal(folder: Path, *arguments: str) -> Iterator[Terminal]:
    shown = Terminal(folder, *arguments)
    try:
        yield shown
    finally:
        shown.process.kill()
        shown.process.wait()
        os.close(shown.master)


@pytest.mark.thorough
@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path, chatty: Path) -> None:
    model = (
        "model=local",
        f"model.name={chatty}",
        "model.dtype=float32",
        f"generation.max_new_tokens={LONG // 2}",
    )
    with terminal(tmp_path, *model) as screen:
        screen.until(rb"you> ")
        screen.type("Tell me all\r")
        screen.until(rb"Tell me all\r\n")
        screen.until(rb"[^\r\n]")
        os.kill(screen.process.pid, signal.SIGINT)
        answer = screen.until(rb"you> ")
        assert not re.search(
            rb"[\x00-\x08\x0b\x0c\x0e-\x1f](?!\[\?2004)", answer.replace(b"\x1b[?2004h", b"")
        ), answer
        screen.type("/set generation.max_new_tokens=4\r")
        screen.until(rb"max_new_tokens=4 ")
        screen.until(rb"you> ")
        screen.type("Go on\r")
        screen.until(rb"cut off after 4 tokens")
        screen.until(rb"you> ")
        os.kill(screen.process.pid, signal.SIGINT)
        screen.until(rb"press Ctrl-C again")
        screen.until(rb"you> ")
        screen.type("\x04")
        assert screen.process.wait(WAIT_S) == 0
    kept = samples(tmp_path)
    assert [sample.answer.finish_reason for sample in kept.values()] == [
        FinishReason.cancelled,
        FinishReason.length,
    ]
    assert 0 < len(kept[0].answer.token_ids) < LONG // 2
    grown = kept[1].prompt_tokens - kept[0].prompt_tokens
    assert grown > len(kept[0].answer.token_ids) / 4, "what was said of it stays said"


def test_control_characters_of_a_model_do_not_reach_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(
        json.dumps([{"role": "user", "content": "\x1b]0;gotcha\x07\x1b[2J red"}])
    )
    done = piped(tmp_path, "Hi\n", "model=stub", "task.load=c.json")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\\x1b]0;gotcha\\x07\\x1b[2J red" in done.stdout


@pytest.mark.thorough
def test_a_polite_kill_keeps_the_transcript(tmp_path: Path) -> None:
    with terminal(tmp_path, "model=stub") as screen:
        screen.until(rb"you> ")
        screen.type("Hi\r")
        screen.until(rb"Hi\.\.\.")
        screen.until(rb"you> ")
        screen.process.terminate()
        assert screen.process.wait(WAIT_S) == 130
    assert len(samples(tmp_path)) == 1
    (result,) = tmp_path.glob("outputs/jobs/*/result.json")
    assert json.loads(result.read_text())["status"] == "KILLED"

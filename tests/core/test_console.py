"""Printing: data is shown as data, and a reader that leaves does not end the work."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process

from runner_base.console import IN_TABLE, LOG_ONLY, StderrFilter, escape_control_characters

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

STUB = ("model=stub", "tracking=none")
HOSTILE = "\x1b]0;owned\x07 [/INST] [red]no[/red] :smile: \x9b31m"
SHOWN = r"\x1b]0;owned\x07 [/INST] [red]no[/red] :smile: \x9b31m"


def on_a_terminal(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the program with a wide terminal as stdin, stdout and stderr; return its exit code and
    output."""
    ours, theirs = pty.openpty()
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *arguments],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"COLUMNS": "250", "TERM": "xterm-256color"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the last process has closed it
            break
    os.close(ours)
    return process.wait(timeout=200), shown.decode()


def test_what_steers_a_terminal_is_written_out() -> None:
    assert escape_control_characters(HOSTILE) == SHOWN
    assert (
        escape_control_characters("two\nlines\tand \r a return 写 é 😀")
        == "two\nlines\tand \\r a return 写 é 😀"
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("which", ["one prompt", "several prompts", "a grid", "a plan", "an error"])
def test_no_text_steers_a_terminal(tmp_path: Path, which: str) -> None:
    (tmp_path / "p.jsonl").write_text(f"{json.dumps({'prompt': HOSTILE})}\n" * 2)
    arguments = {
        "one prompt": (f"task.prompt={HOSTILE}",),
        "several prompts": ("task.prompts=p.jsonl",),
        "a grid": ("-m", f"task.prompt='{HOSTILE}','b'"),
        "a plan": ("-m", f"task.prompt='{HOSTILE}','b'", "plan=true"),
        "an error": (f"task.prompts={HOSTILE}.jsonl",),
    }[which]
    code, shown = on_a_terminal(tmp_path, *STUB, "task=generate", *arguments)
    assert code == (2 if which == "an error" else 0), shown
    assert SHOWN in shown.replace("\r\n", "\n")
    for control in ("\x1b]", "\x07", "\x9b"):
        assert control not in shown


@pytest.mark.thorough
def test_a_pipe_gets_the_completion_as_it_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runner", *STUB, "task=generate", f"task.prompt={HOSTILE}"]
    done = warm_process.complete(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{HOSTILE}...\n" in done.stdout


JOB = f"{sys.executable} -m runner model=stub tracking=none task.limit=2"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (f"{JOB} | true", 0),
        (f"{JOB} | head -1", 0),
        (f"{JOB} print=json | true", 0),
        (f"{JOB} >&-", 0),
        (f"{JOB} 2>&-", 0),
        (f"{JOB} >&- 2>&- <&-", 0),
        (f"{JOB} 2>/dev/full", 0),
        (f"{JOB} >/dev/full", 1),
        (f"{JOB} -m seed=1,2,3 2>&1 | head -2", 0),
        (f"{JOB} -m seed=1,2,3 >/dev/full", 1),
    ],
)
def test_the_work_outlives_its_readers(tmp_path: Path, command: str, code: int) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    results = [json.loads(file.read_text()) for file in tmp_path.glob("outputs/jobs/*/result.json")]
    assert [result["status"] for result in results] == ["FINISHED"] * (3 if "-m seed" in command else 1)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    if code:
        *_, last = done.stderr.splitlines()
        assert re.fullmatch(
            r"error: [^.]* stdout \(No space left on device\)\. .* saved.* same command.*", last
        )


@pytest.mark.thorough
@pytest.mark.parametrize("module", ["runner", "runner_compare", "runner.tracking.sync"])
def test_every_command_says_that_a_device_is_full(tmp_path: Path, module: str) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", module, "--help"]
        done = subprocess.run(
            command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=200, check=False
        )
    assert done.returncode == 1
    assert " stdout (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_only_the_log_is_for_and_what_the_table_says_stay_off_stderr(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def passes(**marks: object) -> bool:
        record = logging.makeLogRecord({"msg": "x", **marks})
        return StderrFilter().filter(record)

    assert passes()
    assert passes(**IN_TABLE), "with print=json there is no table"
    assert not passes(**LOG_ONLY)
    monkeypatch.setattr(StderrFilter, "table_follows", True)
    assert passes()
    assert not passes(**IN_TABLE)


@pytest.mark.thorough
def test_stderr_says_nothing_that_the_table_says(runner: Callable[..., Any], tmp_path: Path) -> None:
    done = runner("task=generate", "task.prompt=Hi", "model.device=cpu", "tracking=none", "print=full")
    assert (done.code, done.err) == (0, "")
    assert "LlamaForCausalLM" in done.out
    [log] = tmp_path.glob("outputs/jobs/*/log.txt")
    assert "loaded model:\n     loaded  LlamaForCausalLM" in log.read_text(), "the log has it"

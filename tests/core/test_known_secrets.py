"""Secrets of the environment are in no message, and in no child that reads what a model has
written."""

from __future__ import annotations

import os
import subprocess
from base64 import b64encode
from contextlib import suppress
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from runner.scorers.expressions import ComparisonProcess
from runner.tracking.connection import convert_store_errors
from runner_base import child_process
from runner_base.errors import TrackingError
from runner_base.known_secrets import redact_environment_secrets
from runner_engine.sessions.chat_template import ChatTemplate, RenderLimits

SECRET = 'tok+en/"123456'


@pytest.mark.parametrize(
    "name", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD", "HF_TOKEN", "API_KEY"]
)
def test_a_store_that_sends_a_secret_back_does_not_get_it_shown(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("SHORT_KEY", "EMPTY")
    spellings = (SECRET, "tok%2Ben%2F%22123456", 'tok+en/\\"123456')
    with (
        pytest.raises(TrackingError) as raised,
        convert_store_errors(lambda text: f"cannot be written: {text}"),
    ):
        raise OSError(f"401 for Bearer {' and '.join(spellings)}: EMPTY")
    assert str(raised.value) == "cannot be written: 401 for Bearer *** and *** and ***: EMPTY"


def test_a_log_in_is_hidden_in_the_spelling_that_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pass")
    assert redact_environment_secrets(f"Basic {b64encode(b'admin:pass').decode()}") == "Basic ***"


def environment_of(program: str) -> dict[str, str]:
    """Return the environment of the child of this process that runs a program."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and program in (folder / "cmdline").read_bytes().decode():
                entries = (folder / "environ").read_bytes().decode().split("\0")
                return dict(entry.partition("=")[::2] for entry in entries if entry)
    raise AssertionError(f"no child runs {program}")


@pytest.mark.thorough
def test_children_that_read_the_words_of_a_model_get_no_secret(
    monkeypatch: pytest.MonkeyPatch, tiny_llama: Path
) -> None:
    for name in ("MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "NAMED_BY_NOBODY"):
        monkeypatch.setenv(name, SECRET)
    trusted = child_process.start_python_child_process(
        "-c", "print('ready', flush=True); input()", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert trusted.stdout is not None
    trusted.stdout.readline()
    assert SECRET in environment_of("ready").values(), "the control: others inherit it"
    trusted.communicate(b"\n")
    compares = ComparisonProcess()
    place, _ = compares.compare("1/2", ["0.5"])
    assert place == 0, "it works without them"
    assert SECRET not in environment_of("expressions_child").values()
    compares.close()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.chat_template = "{{ messages[0].content }}"
    # as no other test has them, so that a process of its own renders
    limits = RenderLimits(cpu_s=3.5)
    assert ChatTemplate(tokenizer, "it", {}, limits).render([{"role": "user", "content": "Hi"}]) == "Hi"
    assert SECRET not in environment_of("template_child").values()

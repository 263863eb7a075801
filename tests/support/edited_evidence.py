"""Edits of the files that a job has written: each is rejected with the file's name, or changes no
result."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_evidence import FOUND, plain

from runner.config.model import StubConfig
from runner.config.root import NoTrackingConfig, RunnerConfig
from runner.config.task import TaskConfig
from runner.run import run
from runner_base.errors import RunnerError, RunRecordError
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.rope import RopeConfig

EDITS = 12
Edit = Callable[[bytes, random.Random], bytes]


def config_of(task: TaskConfig, folder: Path) -> RunnerConfig:
    """Return a job of the stub."""
    plain_groups: Any = {"quantization": QuantizationConfig(), "lora": LoraConfig(), "rope": RopeConfig()}
    return RunnerConfig(
        model=StubConfig(),
        generation=GenerationConfig(max_new_tokens=24),
        task=task,
        tracking=NoTrackingConfig(),
        output_dir=str(folder),
        **plain_groups,
    )


def other_character(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return (
        data[:at] + bytes([chance.choice([it for it in b'0127"a}{ \n' if it != data[at]])]) + data[at + 1 :]
    )


def other_digit(data: bytes, chance: random.Random) -> bytes:
    at = chance.choice([at for at, it in enumerate(data) if chr(it).isdigit()])
    return data[:at] + str((int(chr(data[at])) + 1) % 10).encode() + data[at + 1 :]


def turned_verdict(data: bytes, chance: random.Random) -> bytes:
    words = [
        word for word in (b"no_answer", b"wrong", b"correct", b"stop", b"length", b"-1.0") if word in data
    ]
    return data.replace(chance.choice(words), b"correct", 1) if words else other_digit(data, chance)


def without_a_line(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[chance.randrange(len(lines))]
    return b"".join(lines)


def other_order(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    chance.shuffle(lines)
    return b"".join(lines)


def doubled_line(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join([*lines, chance.choice(lines)])


KINDS: tuple[Edit, ...] = (
    other_character,
    other_digit,
    turned_verdict,
    without_a_line,
    other_order,
    doubled_line,
)


def results_of(record: Any) -> dict[str, float]:
    """Return the numbers that were found, and not measured."""
    return {name: record.result.metrics[name] for name in FOUND if name in record.result.metrics}


def check_edits(task: TaskConfig, done: Path, folder: Path, name: str) -> None:
    """Edit a file of a finished job of this task several times, in copies of its folder."""
    truth = results_of(run(config_of(task, done)))
    chance, rejections = random.Random(f"{task.name}/{name}"), 0
    for number in range(EDITS):
        shutil.copytree(done, folder / str(number))
        (file,) = folder.glob(f"{number}/jobs/*/{name}")
        before = file.read_bytes()
        edit = KINDS[number % len(KINDS)]
        file.write_bytes(edit(before, chance))
        if name != "result.json":
            (file.parent / "result.json").unlink()
        try:
            record = run(config_of(task, folder / str(number)))
        except RunnerError as error:
            assert isinstance(error, RunRecordError)  # noqa: PT017
            is_named = str(file) in str(error) or "samples.jsonl" in str(error)
            assert is_named, "the error names the file"
            rejections += 1
        else:
            assert results_of(record) == truth, f"{edit.__name__} {number} was not noticed"
            if name.endswith("l"):
                lines = {json.dumps(plain(json.loads(line))) for line in file.read_bytes().split(b"\n")[:-1]}
                assert lines == {json.dumps(plain(json.loads(line))) for line in before.split(b"\n")[:-1]}
    if name in ("samples.jsonl", "calls.jsonl", "result.json"):
        assert rejections >= EDITS // 3

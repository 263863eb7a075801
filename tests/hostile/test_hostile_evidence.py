"""Edited evidence: each edit is rejected with the file's name, or the job's results are unchanged."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_evidence import FOUND, plain

from runner.config.likelihood import LikelihoodConfig
from runner.config.model import StubConfig
from runner.config.root import NoTrackingConfig, RunnerConfig
from runner.config.task import Gsm8kConfig, TaskConfig
from runner.options.agents.keys import AgentsConfig, Domain, Role
from runner.run import run
from runner_base.errors import EvidenceError, RunnerError
from runner_base.result import RepeatLog, read_repeats
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.rope import RopeConfig

pytestmark = pytest.mark.smoke(2)
TEAM = [Role.math_solver, Role.inspector]
TASKS: dict[str, TaskConfig] = {
    "gsm8k": Gsm8kConfig(limit=4),
    "agents": AgentsConfig(limit=2, agents=2, domain=Domain.brief, roles=TEAM, optimized_spatial=True,
                           num_iterations=1, batch_size=2),
    "likelihood": LikelihoodConfig(limit=4, keep_top_k=2),
}  # fmt: skip
FILES = [("gsm8k", "samples.jsonl"), ("agents", "samples.jsonl"), ("agents", "calls.jsonl"), ("agents", "graph.json"),
         ("likelihood", "samples.jsonl"), ("likelihood", "top_k.jsonl"), *((task, "measured.json") for task in TASKS),
         *((task, "result.json") for task in TASKS)]  # fmt: skip
EDITS = 12
Edit = Callable[[bytes, random.Random], bytes]


def config_of(task: str, folder: Path) -> RunnerConfig:
    plain_groups: Any = {"quantization": QuantizationConfig(), "lora": LoraConfig(), "rope": RopeConfig()}
    return RunnerConfig(
        model=StubConfig(),
        generation=GenerationConfig(max_new_tokens=24),
        task=TASKS[task],
        tracking=NoTrackingConfig(),
        output_dir=str(folder),
        **plain_groups,
    )


def other_character(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([chance.choice([it for it in b'0127"a}{ \n' if it != data[at]])]) + data[at + 1 :]


def other_digit(data: bytes, chance: random.Random) -> bytes:
    at = chance.choice([at for at, it in enumerate(data) if chr(it).isdigit()])
    return data[:at] + str((int(chr(data[at])) + 1) % 10).encode() + data[at + 1 :]


def turned_verdict(data: bytes, chance: random.Random) -> bytes:
    words = [word for word in (b"no_answer", b"wrong", b"correct", b"stop", b"length", b"-1.0") if word in data]
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


KINDS: tuple[Edit, ...] = (other_character, other_digit, turned_verdict, without_a_line, other_order, doubled_line)


def results_of(record: Any) -> dict[str, float]:
    return {name: record.result.metrics[name] for name in FOUND if name in record.result.metrics}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folders of all jobs, each done once."""
    folder = tmp_path_factory.mktemp("done")
    for task in TASKS:
        run(config_of(task, folder / task))
    return folder


@pytest.mark.parametrize(("task", "name"), FILES)
def test_an_edit_is_rejected_or_changes_nothing(done: Path, tmp_path: Path, task: str, name: str) -> None:
    truth = results_of(run(config_of(task, done / task)))
    chance, rejections = random.Random(f"{task}/{name}"), 0
    for number in range(EDITS):
        shutil.copytree(done / task, tmp_path / str(number))
        (file,) = tmp_path.glob(f"{number}/jobs/*/{name}")
        before = file.read_bytes()
        edit = KINDS[number % len(KINDS)]
        file.write_bytes(edit(before, chance))
        if name != "result.json":
            (file.parent / "result.json").unlink()
        try:
            record = run(config_of(task, tmp_path / str(number)))
        except RunnerError as error:
            assert isinstance(error, EvidenceError)  # noqa: PT017
            assert str(file) in str(error) or "samples.jsonl" in str(error), "the error names the file"  # noqa: PT017
            rejections += 1
        else:
            assert results_of(record) == truth, f"{edit.__name__} {number} was not noticed"
            if name.endswith("l"):
                lines = {json.dumps(plain(json.loads(line))) for line in file.read_bytes().split(b"\n")[:-1]}
                assert lines == {json.dumps(plain(json.loads(line))) for line in before.split(b"\n")[:-1]}
    if name in ("samples.jsonl", "calls.jsonl", "result.json"):
        assert rejections >= EDITS // 3


def test_edited_repeats_are_rejected(tmp_path: Path) -> None:
    log = RepeatLog(tmp_path)
    for repeat, value in enumerate((1.5, 2.5, 3.5)):
        log.add(repeat, {"decode_tok_per_s": value, "load_s": value})
    sound = log.path.read_text()
    assert read_repeats(log.path) == {"decode_tok_per_s": [1.5, 2.5, 3.5], "load_s": [1.5, 2.5, 3.5]}
    for old, new in (("2.5", "9.5"), ("load_s", "load_x"), ('"repeat": 1', '"repeat": 2')):
        log.path.write_text(sound.replace(old, new, 1))
        with pytest.raises(ValueError, match="checksum does not fit"):
            read_repeats(log.path)


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    first = run(config_of("gsm8k", tmp_path))
    (file,) = tmp_path.glob("jobs/*/result.json")
    values = json.loads(file.read_text())
    del values["checksum"]
    file.write_text(json.dumps(values))
    again = run(config_of("gsm8k", tmp_path))
    assert again.from_ledger
    assert again.result == first.result

"""Edited evidence: each edit is rejected with the file's name, or the job's results are
unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from edited_evidence import check_edits, config_of

from runner.config.task import TaskConfig
from runner.run import run
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.repeats import RepeatLog, read_repeats

pytestmark = pytest.mark.smoke(2)
TASKS: dict[str, TaskConfig] = {
    "gsm8k": Gsm8kConfig(limit=4),
    "likelihood": LikelihoodConfig(limit=4, keep_top_k=2),
}  # fmt: skip
FILES = [("gsm8k", "samples.jsonl"),
         ("likelihood", "samples.jsonl"), ("likelihood", "top_k.jsonl"), *((task, "measured.json") for task in TASKS),
         *((task, "result.json") for task in TASKS)]  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folders of all jobs, each done once."""
    folder = tmp_path_factory.mktemp("done")
    for name, task in TASKS.items():
        run(config_of(task, folder / name))
    return folder


@pytest.mark.parametrize(("task", "name"), FILES)
def test_an_edit_is_rejected_or_changes_nothing(done: Path, tmp_path: Path, task: str, name: str) -> None:
    check_edits(TASKS[task], done / task, tmp_path, name)


def test_edited_repeats_are_rejected(tmp_path: Path) -> None:
    log = RepeatLog(tmp_path)
    for repeat, value in enumerate((1.5, 2.5, 3.5)):
        log.add_repeat(repeat, {"decode_tok_per_s": value, "load_s": value})
    sound = log.path.read_text()
    assert read_repeats(log.path) == {"decode_tok_per_s": [1.5, 2.5, 3.5], "load_s": [1.5, 2.5, 3.5]}
    for old, new in (("2.5", "9.5"), ("load_s", "load_x"), ('"repeat": 1', '"repeat": 2')):
        log.path.write_text(sound.replace(old, new, 1))
        with pytest.raises(ValueError, match="checksum does not match"):
            read_repeats(log.path)


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    first = run(config_of(TASKS["gsm8k"], tmp_path))
    (file,) = tmp_path.glob("jobs/*/result.json")
    values = json.loads(file.read_text())
    del values["checksum"]
    file.write_text(json.dumps(values))
    again = run(config_of(TASKS["gsm8k"], tmp_path))
    assert again.from_ledger
    assert again.result == first.result

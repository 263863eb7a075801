"""What a maker has written is whole or not there: errors, kills, and names that are taken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_models import made_by, record_of
from safetensors import safe_open
from vllm_standin import is_alive

from runner.options.quantize import making
from runner_base.errors import ConfigError

pytestmark = pytest.mark.slow
Run = Callable[..., Any]
KEYS = ("task.recipe=torchao_intx", "task.group_size=64", "task.bits=8", "model.dtype=float32")
NAME = "embedded-torchao_intx-8bit-g64"
DEADLINE_S = 240


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_job_makes_a_model_records_it_and_makes_it_again_only_if_it_is_gone(
    runner: Run, tmp_path: Path
) -> None:
    made, result = made_by(runner, tmp_path, *KEYS)
    assert made == tmp_path / "outputs" / "made" / NAME
    assert [path.name for path in made.parent.iterdir()] == [NAME]
    metrics, facts = result["metrics"], result["facts"]
    assert 8 < metrics["bits_per_weight"] < 16
    assert metrics["make_s"] > 0
    assert metrics["maker_peak_rss_mib"] > 100
    assert facts["maker"].startswith("torchao 0.")
    assert facts["recipe"] == "torchao_intx-8bit-g64"
    told = json.loads((made / "quantize.json").read_text())
    assert told["maker"] == facts["maker"]
    assert (made / "tokenizer.json").exists()
    before = contents(made)
    made_by(runner, tmp_path, *KEYS)  # recorded: nothing is done
    assert contents(made) == before
    for path in made.iterdir():
        path.unlink()
    made.rmdir()
    made_by(runner, tmp_path, *KEYS)
    assert {*contents(made)} == {*before}


def test_a_model_that_was_changed_since_is_neither_taken_nor_written_over(
    runner: Run, tmp_path: Path
) -> None:
    made, _ = made_by(runner, tmp_path, *KEYS)
    (made / "config.json").write_text("{}")
    done = runner("task=quantize", "tracking=none", *KEYS, cwd=tmp_path)
    assert done.code == 2
    assert f"task.output: {made} exists, and nothing is written over it" in done.err
    assert (made / "config.json").read_text() == "{}"


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "runner", "task=quantize", "tracking=none", *KEYS], cwd=folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def makers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the children of a runner that are makers."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == process.pid and b"maker_main" in command:
            found.append(int(status.parent.name))
    return found


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    pytest.fail("it did not happen in time")


@pytest.mark.parametrize("moment", ["maker starts", "folder is there", "weights are written"])
def test_a_killed_runner_leaves_no_half_model_and_the_next_one_makes_it(
    runner: Run, tmp_path: Path, moment: str
) -> None:
    made = tmp_path / "outputs" / "made"
    unfinished = made / f".{NAME}.unfinished" / making.MADE
    process = start(tmp_path)
    (maker, *_) = wait_for(lambda: makers_of(process))
    if moment == "folder is there":
        wait_for(unfinished.exists)
    if moment == "weights are written":
        wait_for(lambda: [*unfinished.glob("*.safetensors")])
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not is_alive(maker))
    assert not (made / NAME).exists()
    found, _ = made_by(runner, tmp_path, *KEYS)
    assert [path.name for path in made.iterdir()] == [NAME]
    for file in found.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert [*opened.keys()]


def test_a_killed_maker_is_a_failed_job_with_its_log_and_the_next_one_makes_it(
    runner: Run, tmp_path: Path
) -> None:
    process = start(tmp_path)
    (maker, *_) = wait_for(lambda: makers_of(process))
    os.kill(maker, signal.SIGKILL)
    assert process.wait(DEADLINE_S) == 1
    record = record_of(tmp_path)
    assert record["status"] == "FAILED"
    assert "torchao was killed by SIGKILL" in record["error"]
    assert [*(tmp_path / "outputs" / "made").iterdir()] == []
    made_by(runner, tmp_path, *KEYS)


def test_what_a_maker_says_at_its_end_is_the_jobs_error(runner: Run, tmp_path: Path) -> None:
    """A model of a family that nobody knows: transformers' own sentence, and no traceback."""
    import shutil

    from runner_engine.embedded import MODEL_DIR

    model = tmp_path / "model"
    shutil.copytree(MODEL_DIR, model)
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"model_type": "unheard_of"}))
    done = runner("task=quantize", "tracking=none", "model=local", f"model.name={model}", *KEYS)
    assert done.code == 1
    assert "torchao ended with exit code 1: " in done.err
    assert "unheard_of" in done.err
    assert "Traceback" not in done.err


def test_a_name_that_is_taken_meanwhile_stays_as_it_is(tmp_path: Path) -> None:
    """The last step fails over what exists, a file and a folder, and not only the check before."""
    for is_folder in (False, True):
        place = tmp_path / f"place{is_folder}"
        made, target = place / "made", place / "target"
        for path, text in ((made, "new"), (target, "old")):
            file = path / "file" if is_folder else path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        with pytest.raises(ConfigError, match="exists, and nothing is written over it"):
            making._name(made, target)
        with pytest.raises(OSError, match="exist|not empty"):
            os.rename(made, target) if is_folder else os.link(made, target)
        assert ((target / "file") if is_folder else target).read_text() == "old"


def test_two_jobs_never_write_into_one_place(tmp_path: Path) -> None:
    with (
        making._unfinished(tmp_path / "model"),
        pytest.raises(ConfigError, match="another process is writing there"),
        making._unfinished(tmp_path / "model"),
    ):
        pass
    assert [*tmp_path.iterdir()] == []

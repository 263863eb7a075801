"""What a maker has written is whole or not there: errors, kills, and names that are taken."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loading import load, logits
from made_models import CALIBRATED, made_by, record_of, with_maker
from raising import raises
from safetensors import safe_open
from vllm_standin import is_alive

from runner.options.quantize import quantizer_process
from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError, JobFailed
from runner_engine.embedded import MODEL_DIR
from tools import embedded_gguf

pytestmark = pytest.mark.slow
Run = Callable[..., Any]
KEYS = ("task.recipe=torchao_intx", "task.group_size=64", "task.bits=8", "model.dtype=float32")
NAME = "embedded-torchao_intx-8bit-g64"
DEADLINE_S = 240


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.thorough
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
    assert contents(made) == before, "made again, it has the same hash"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_maker_has_the_threads_that_are_given(runner: Run, tmp_path: Path, threads: int) -> None:
    _, result = made_by(runner, tmp_path, *KEYS, f"model.threads={threads}")
    assert result["facts"]["threads"] == str(threads)


@pytest.mark.thorough
def test_a_model_that_was_changed_since_is_neither_taken_nor_written_over(
    runner: Run, tmp_path: Path
) -> None:
    made, _ = made_by(runner, tmp_path, *KEYS)
    (made / "config.json").write_text("{}")
    done = runner("task=quantize", "tracking=none", *KEYS, cwd=tmp_path)
    assert done.code == 2
    assert f"task.output: {made} exists and is not overwritten" in done.err
    assert (made / "config.json").read_text() == "{}"


def start(folder: Path, *keys: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "runner", "task=quantize", "tracking=none", *(keys or KEYS)], cwd=folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def makers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the children of a runner that are makers."""
    return children_of(process.pid, "maker_main")


def children_of(pid: int, name: str) -> list[int]:
    """Return the children of a process that are some program."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_text(errors="replace")
        except OSError:
            continue
        programs = {Path(word).stem for word in command.split("\0") if not word.endswith(".gguf")}
        if parent == pid and {name, f"llama-{name}"} & programs:
            found.append(int(status.parent.name))
    return found


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    pytest.fail("it did not happen in time")


@pytest.mark.thorough
@pytest.mark.parametrize("moment", ["maker starts", "folder is there", "weights are written"])
def test_a_killed_runner_leaves_no_half_model_and_the_next_one_makes_it(
    runner: Run, tmp_path: Path, moment: str
) -> None:
    made = tmp_path / "outputs" / "made"
    unfinished = f".{NAME}.*{quantizer_process.UNFINISHED}/{quantizer_process.MADE}"
    process = start(tmp_path)
    (maker, *_) = wait_for(lambda: makers_of(process))
    if moment == "folder is there":
        wait_for(lambda: [*made.glob(unfinished)])
    if moment == "weights are written":
        wait_for(lambda: [*made.glob(f"{unfinished}/*.safetensors")])
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not is_alive(maker))
    assert not (made / NAME).exists()
    found, _ = made_by(runner, tmp_path, *KEYS)
    assert [path.name for path in made.iterdir()] == [NAME]
    for file in found.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert [*opened.keys()]


@pytest.mark.thorough
def test_a_killed_runner_leaves_no_half_of_several_files_and_the_next_one_makes_all(
    runner: Run, tmp_path: Path
) -> None:
    sharded = (*KEYS, "task.shard_mib=1")
    made = tmp_path / "outputs" / "made"
    unfinished = f".{NAME}.*{quantizer_process.UNFINISHED}/{quantizer_process.MADE}"
    process = start(tmp_path, *sharded)
    (maker, *_) = wait_for(lambda: makers_of(process))
    while not [*made.glob(f"{unfinished}/*.safetensors")]:
        assert process.poll() is None
    os.kill(maker, signal.SIGSTOP)
    left = [*made.glob(f"{unfinished}/*.safetensors")]
    assert not [*made.glob(f"{unfinished}/model.safetensors.index.json")]
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not is_alive(maker))
    assert not (made / NAME).exists()
    found, _ = made_by(runner, tmp_path, *sharded)
    assert [path.name for path in made.iterdir()] == [NAME]
    index = json.loads((found / "model.safetensors.index.json").read_text())
    assert {*index["weight_map"].values()} == {path.name for path in found.glob("*.safetensors")}
    assert 2 < len({*index["weight_map"].values()}) > len(left)
    for file in found.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert {*opened.keys()} == {
                name for name, place in index["weight_map"].items() if place == file.name
            }
    whole, _ = made_by(runner, tmp_path / "whole", *KEYS)
    assert [path.name for path in whole.glob("*.safetensors")] == ["model.safetensors"]
    alike = [logits(load(path, dtype=Dtype.float32)) for path in (found, whole)]
    assert torch.equal(*alike)


@pytest.mark.parametrize("recipe", [with_maker("imatrix_q4_k")])
@pytest.mark.parametrize("program", ["imatrix", "quantize"])
def test_a_killed_runner_ends_the_programs_of_llama_cpp_and_leaves_no_half_file(
    runner: Run, tmp_path: Path, recipe: str, program: str
) -> None:
    source = embedded_gguf.write(tmp_path / "embedded-F32.gguf", "F32")
    keys = (f"task.recipe={recipe}", f"task.gguf={source}", *CALIBRATED, "task.sequences=64")
    made = tmp_path / "outputs" / "made"
    process = start(tmp_path, *keys)
    (maker, *_) = wait_for(lambda: makers_of(process))

    def running() -> list[int]:
        return children_of(maker, program)

    (child, *_) = wait_for(running)
    os.kill(child, signal.SIGSTOP)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not is_alive(maker) and not is_alive(child))
    assert [*made.glob("*.gguf")] == []
    found, _ = made_by(runner, tmp_path, *keys)
    assert [*made.iterdir()] == [found]
    before = found.read_bytes()
    again, _ = made_by(runner, tmp_path / "again", *keys)
    assert again.read_bytes() == before


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_what_a_maker_says_at_its_end_is_the_jobs_error(runner: Run, tmp_path: Path) -> None:
    """A model of a family that nobody knows: transformers' own sentence, and no traceback."""
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
        with raises(ConfigError, "exists", "task.output"):
            quantizer_process._move_model_to_target_path(made, target)
        with pytest.raises(OSError, match="exist|not empty"):
            os.rename(made, target) if is_folder else os.link(made, target)
        assert ((target / "file") if is_folder else target).read_text() == "old"


def test_what_cannot_be_read_gets_no_name(tmp_path: Path) -> None:
    """A maker that writes elsewhere leaves a folder without weights, or half a file."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.gguf").write_bytes(b"GGUF\3\0\0\0")
    for made in (tmp_path / "empty", tmp_path / "half.gguf", tmp_path / "nothing"):
        with raises(JobFailed, "failed"):
            quantizer_process._check_written_model(
                made, "maker wrote a model that cannot be read", Path("log")
            )
    whole = embedded_gguf.write(tmp_path / "embedded-F16.gguf", "F16")
    for made in (MODEL_DIR, whole):
        quantizer_process._check_written_model(made, "it is read", Path("log"))


def test_two_jobs_never_write_into_one_place(tmp_path: Path) -> None:
    with (
        quantizer_process._make_temporary_folder(tmp_path / "model"),
        raises(ConfigError, "busy", "task.output"),
        quantizer_process._make_temporary_folder(tmp_path / "model"),
    ):
        pass
    assert [*tmp_path.iterdir()] == []


def test_a_job_next_to_links_of_its_unfinished_folders_name_loses_nothing(
    runner: Run, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("kept")
    place = tmp_path / "outputs" / "made"
    place.mkdir(parents=True)
    links = (f".{NAME}.unfinished", f".{NAME}.{'0' * 16}.unfinished", f".{NAME}.unfinished.tmp")
    for name in links:
        (place / name).symlink_to(victim)
    made, _ = made_by(runner, tmp_path, *KEYS)
    assert contents(victim) == {"precious": b"kept"}
    assert {path.name for path in place.iterdir()} == {NAME, *links}
    assert made.is_dir()
    assert not made.is_symlink()


def test_a_link_in_place_of_the_unfinished_folder_loses_nothing(tmp_path: Path) -> None:
    """Whoever can write next to the model may put links there, to any folder."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("kept")
    place = tmp_path / "place"
    place.mkdir()
    for name in (".model.unfinished", f".model.{'0' * 16}.unfinished", ".model.unfinished.tmp"):
        (place / name).symlink_to(victim)
    with quantizer_process._make_temporary_folder(place / "model") as folder:
        assert [*folder.iterdir()] == []
    assert (victim / "precious").read_text() == "kept"
    assert len([*place.iterdir()]) == 3

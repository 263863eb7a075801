"""What a user means who does not know the runner's words: Hydra's folders, own keys, a model or an
adapter as a choice."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]  # the fixture `runner`: takes arguments, returns a finished command
STUB = ("model=stub", "task.limit=3")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"])
def test_hydras_folders_are_refused_where_nothing_is_written(runner: Run, tmp_path: Path, key: str) -> None:
    done = runner(*STUB, "tracking=none", f"{key}=elsewhere/deep")
    assert done.code == 2
    assert done.err == (
        f"error: {key}=elsewhere/deep: has no effect on the results. Use output_dir=elsewhere/deep\n"
    )
    assert not [*tmp_path.iterdir()]
    grid = runner("-m", *STUB, "seed=1,2", "tracking=none", f"{key}=elsewhere")
    assert (grid.code, "Use output_dir=elsewhere" in grid.err) == (2, True)


@pytest.mark.thorough
def test_hydras_folders_may_be_given_where_they_are_used(runner: Run, tmp_path: Path) -> None:
    assert runner(*STUB, "tracking=none", "print=none", "hydra.run.dir=.").code == 0
    assert (
        runner(*STUB, "tracking=none", "print=none", "hydra.run.dir=own", "hydra.output_subdir=h").code == 0
    )
    assert (tmp_path / "own" / "h" / "config.yaml").is_file()
    launched = ("hydra/launcher=basic", "hydra.sweep.dir=swept", "seed=1,2", "tracking=none", "plan=true")
    assert runner("-m", *STUB, *launched).code == 0
    study = "defaults: [config, _self_]\nmodel: stub\nhydra: {run: {dir: own2}, sweep: {dir: own3}}\n"
    (tmp_path / "study.yaml").write_text(
        study.replace("model: stub\n", "").replace("_self_]", "override model: stub, _self_]")
    )
    done = runner("-cd", ".", "-cn", "study", "task.limit=1", "tracking=none", "print=none")
    assert done.code == 0, done.err
    assert "note: hydra.run.dir=own2 has no effect" in done.err


@pytest.mark.thorough
def test_own_keys_are_recorded_and_are_no_part_of_the_id(runner: Run, tmp_path: Path) -> None:
    plain = runner(*STUB, "print=json").json()
    noted = runner(*STUB, "+notes.why=baseline", "+notes.of.team=blue", "rerun=all", "print=json").json()
    assert noted["job_id"] == plain["job_id"]
    record = json.loads(Path(noted["output_dir"], "result.json").read_text())
    assert {key: it for key, it in record["params"].items() if "notes" in key} == {
        "notes.why": "baseline",
        "notes.of.team": "blue",
    }
    with contextlib.closing(sqlite3.connect(tmp_path / "outputs" / "mlflow.db")) as connection:
        params = dict(connection.execute("select key, value from params where key like 'notes%'").fetchall())
    assert params == {"notes.why": "baseline", "notes.of.team": "blue"}
    (tmp_path / "mine.yaml").write_text("defaults: [config, _self_]\nnotes: {who: me}\nseed: 3\n")
    mine = runner("-cd", ".", "-cn", "mine", *STUB, "print=json").json()
    record = json.loads(Path(mine["output_dir"], "result.json").read_text())
    assert record["params"]["notes.who"] == "me"


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("+note=hi", "note: no group or key 'note'. Did you mean notes?"),
        ("+purpose=hi", "To record a note, use +notes.purpose=hi"),
        ("notes.why=hi", "notes.why: this note does not exist. To add it, use +notes.why=hi"),
        ("+notes={a b: 1}", "notes: 'a b' is no valid note name. Use letters, digits, _ and -"),
        ("~lora", "~lora: every config group needs a choice: use lora=none."),
        ("~model", "~model: every config group needs a choice: remove this override to use the default, or name a choice."),
        ("lora=./own/folder", "lora=./own/folder: this is an adapter name, not a choice. Use lora=peft lora.path=./own/folder"),
        ("lora=/x/a.pth", "lora=/x/a.pth: this is an adapter file, not a choice. Use lora=pth lora.path=/x/a.pth"),
        ("model=org/a-1.5B", "model=org/a-1.5B: this is a model name, not a choice. Use model=auto model.name=org/a-1.5B"),
        ("model=/x/a.gguf", "model=/x/a.gguf: this is a file, not a choice. Use model=auto model.name=/x/a.gguf"),
        ("task=perplexity", "task=perplexity: use task=likelihood"),
        ("task=gpqa_diamond", "task=gpqa_diamond: gpqa_diamond is a data set, not a task. Use task=gsm8k task.data=gpqa_diamond"),
        ("quantization=int4", "quantization=int4: choices with 4 bits: nf4, fp4, hqq with quantization.bits=4, "),
        ("quantization=q4_k_m", "quantization=q4_k_m: this is a quantization type of .gguf files. Use model=auto model.name=FILE.gguf"),
    ],
)  # fmt: skip
def test_what_is_meant_is_said_in_one_message(runner: Run, given: str, message: str) -> None:
    done = runner(given, "tracking=none", "plan=true")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
    grid = runner("-m", given, "seed=1,2", "tracking=none", "plan=true")
    assert grid.code == 2
    assert message in grid.err + grid.out


def test_a_folder_of_studies_that_is_not_here_says_where_it_is(runner: Run) -> None:
    done = runner("-cd", "experiments", "-cn", "quantization_grid")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: -cd experiments: there is no folder ")
    assert "in a clone" in done.err


def test_a_folder_of_studies_needs_the_name_of_one(runner: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [config, _self_]\n")
    done = runner("-cd", str(tmp_path), "plan=true", "tracking=none")
    assert (done.code, done.out) == (2, "")
    assert "-cn NAME: mine" in done.err
    (tmp_path / "generation").mkdir()
    (tmp_path / "generation" / "short.yaml").write_text("max_new_tokens: 8\n")
    done = runner("-cd", str(tmp_path), "plan=true", "tracking=none", "model=stub")
    assert done.code == 0, done.err

"""Hostile files that are split, merged, verified or run in parts: an error that names the file, and
nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import corpus
import pytest
import torch
from arena import GSM8K, MODEL, Arena, Run
from corpus import many
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.smoke(5)]
SPLIT = (*MODEL, "task=split", "task.num_parts=2")


# ------------------------------------------------------------------------------------------- a
# model's files


@many(corpus.JSONS)
def test_config_json(arena: Arena, tiny_llama: Path, case: str) -> None:
    model = corpus.copy_model(tiny_llama, arena.folder)
    (model / "config.json").write_bytes(corpus.JSONS[case])
    assert "config.json" in arena.give(*SPLIT)


@many(corpus.SAFETENSORS)
def test_safetensors(arena: Arena, tiny_llama: Path, case: str) -> None:
    model = corpus.copy_model(tiny_llama, arena.folder)
    (model / "model.safetensors").write_bytes(corpus.SAFETENSORS[case])
    assert "model.safetensors" in arena.give(*SPLIT)


@pytest.mark.parametrize("end", ["safetensors", "bin"])
@pytest.mark.parametrize("name", ["../canary", "/etc/passwd", "", 7, None, ["a"]], ids=repr)
def test_names_in_an_index(arena: Arena, tiny_llama: Path, end: str, name: Any) -> None:
    model = corpus.copy_model(tiny_llama, arena.folder)
    (model / "model.safetensors").unlink()
    index = "model.safetensors.index.json" if end == "safetensors" else "pytorch_model.bin.index.json"
    (model / index).write_text(json.dumps({"weight_map": {"w": name}}))
    assert "a bare file name" in arena.give(*SPLIT)


@many(corpus.PICKLES)
def test_bin_files(arena: Arena, tiny_llama: Path, case: str) -> None:
    model = corpus.copy_model(tiny_llama, arena.folder)
    (model / "model.safetensors").unlink()
    corpus.PICKLES[case](model / "pytorch_model.bin", arena.mark)
    split = arena.give(*SPLIT)
    if case in ("code", "code, plain", "packed tensor", "packed pickle"):
        assert split == arena.give(*MODEL, *GSM8K), "both readers print the same message"


def test_wrapped_weights_are_taken_from_where_they_are(arena: Arena, tiny_llama: Path) -> None:
    model = corpus.copy_model(tiny_llama, arena.folder)
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save({"model_state_dict": weights, "epoch": 3}, model / "pytorch_model.bin")
    arena.give(*SPLIT, "task.output_dir=parts", fails=False)
    (result,) = arena.folder.glob("outputs/jobs/split-*/result.json")
    assert "the tensors are loaded from the key model_state_dict; ignored: epoch" in result.read_text()
    arena.give("task=merge", "task.parts=parts", "task.output_dir=merged", fails=False)
    merged = load_file(arena.folder / "merged" / "model.safetensors")
    assert all(torch.equal(merged[name], tensor) for name, tensor in weights.items())


# -------------------------------------------------------------------------------------------- parts


@pytest.fixture(scope="module")
def sound_parts(tmp_path_factory: pytest.TempPathFactory, run_job: Run) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    split = ["model=embedded", "task=split", "task.num_parts=2", f"task.output_dir={folder / 'parts'}"]
    run_job([*split, f"output_dir={folder}", "print=none"])
    return folder / "parts"


@pytest.mark.parametrize("name", ["manifest.json", "partition_0.json"])
@many(corpus.JSONS)
def test_json_of_parts(arena: Arena, sound_parts: Path, name: str, case: str) -> None:
    shutil.copytree(sound_parts, arena.folder / "parts")
    (arena.folder / "parts" / name).write_bytes(corpus.JSONS[case])
    for task in ("merge", "verify", "archive"):
        assert name in arena.give(
            f"task={task}", "task.parts=parts", *(["task.output_dir=out"] * (task != "verify"))
        )


IN_PARTS = ("task=generate", "model=parts", "model.name=parts", "task.prompt=x", "model.device=cpu")


@pytest.mark.parametrize("task", ["verify", "generate"])
def test_weights_of_a_part(arena: Arena, sound_parts: Path, task: str) -> None:
    shutil.copytree(sound_parts, arena.folder / "parts")
    words = (
        ("task=verify", "task.parts=parts")
        if task == "verify"
        else (*IN_PARTS, "generation.max_new_tokens=1")
    )
    (part,) = (arena.folder / "parts").glob("*0*.safetensors")
    # each starts a process
    cases = corpus.SAFETENSORS if task == "verify" else ("empty", "deep", "beyond the end")
    for case in cases:
        part.write_bytes(corpus.SAFETENSORS[case])
        assert part.name in arena.give(*words)


@pytest.mark.parametrize("name", ["manifest.json", "partition_0.json", "config.json"])
def test_json_of_parts_that_a_pipeline_runs(arena: Arena, sound_parts: Path, name: str) -> None:
    shutil.copytree(sound_parts, arena.folder / "parts")
    (file,) = (arena.folder / "parts").rglob(name)
    for case in ("null", "deep", "no utf-8", "digits"):
        file.write_bytes(corpus.JSONS[case])
        assert name in arena.give(*IN_PARTS)


@pytest.mark.parametrize(
    "place", [("parts", 0, "file"), ("parts", 0, "partition"), ("companions", 0, "file")], ids=repr
)
@pytest.mark.parametrize("name", ["../../canary", "/etc/passwd", "a\\b", "..", 7], ids=repr)
def test_names_in_a_manifest(arena: Arena, sound_parts: Path, place: tuple[str, int, str], name: Any) -> None:
    shutil.copytree(sound_parts, arena.folder / "parts")
    file = arena.folder / "parts" / "manifest.json"
    values = json.loads(file.read_text())
    values[place[0]][place[1]][place[2]] = name
    file.write_text(json.dumps(values))
    assert "a bare file name" in arena.give("task=merge", "task.parts=parts", "task.output_dir=out")

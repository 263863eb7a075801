"""task=split: parts that hold what the manifest says, bad inputs that leave nothing behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from families import save
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from runner.config import Int8Config, ModelConfig, PeftConfig, RunnerConfig, SplitConfig
from runner.errors import ConfigError, DataError, JobFailed
from runner.jobs import Job, Recorder
from runner.model.layout import Part
from runner.result import Result
from runner.tasks import split

LAYERS = 4
Split = Callable[..., Result]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny Llamas with four layers: head tied and in one file, head of its own and in shards."""
    shapes = {"num_hidden_layers": LAYERS, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8}
    make = partial(save, **shapes)
    root = tmp_path_factory.mktemp("models")
    return {"tied": make(root / "tied", tied=True), "untied": make(root / "untied", shard="30KB")}


@pytest.fixture
def run_split(tmp_path: Path, make_config: Callable[..., RunnerConfig]) -> Split:
    """Return a function that splits a folder into tmp_path/parts."""

    def run(folder: Path, num_parts: int, **groups: Any) -> Result:
        task = SplitConfig(num_parts=num_parts, output_dir=str(tmp_path / "parts"))
        config = make_config(**({"model": ModelConfig(name=str(folder)), "task": task} | groups))
        assert split.evidence(config) == {}
        (tmp_path / "job").mkdir(exist_ok=True)
        return split.execute(config, Untouched(), Recorder(Job("split-test", tmp_path / "job")))  # type: ignore[arg-type]

    return run


class Untouched:
    """An engine that must not be used."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the engine's {name} was asked for")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------- output


@pytest.mark.parametrize("num_parts", [1, 3, LAYERS])
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_the_parts_hold_what_the_manifest_says(
    models: dict[str, Path], run_split: Split, tmp_path: Path, name: str, num_parts: int
) -> None:
    result = run_split(models[name], num_parts)
    parts = tmp_path / "parts"
    manifest = json.loads((parts / "manifest.json").read_text())
    original: dict[str, torch.Tensor] = {}
    for file in models[name].glob("*.safetensors"):
        original |= load_file(file)
    seen: dict[str, list[int]] = {}
    for number, listed in enumerate(manifest["parts"]):
        content = (parts / listed["file"]).read_bytes()
        assert listed["file"] == f"part_{number}.safetensors"
        assert (listed["bytes"], listed["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        partition = json.loads((parts / f"partition_{number}.json").read_text())
        assert (partition["part_id"], partition["parameters_format"]) == (number, "reference")
        with safe_open(parts / listed["file"], "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert set(opened.keys()) == {layer["name"] for layer in partition["layers"]}
            for layer in partition["layers"]:
                tensor = opened.get_tensor(layer["name"])
                assert torch.equal(tensor, original[layer["name"]])
                assert (layer["shape"], layer["dtype"]) == (list(tensor.shape), "F32")
                where = layer["parameters"]
                there = content[where["offset"] : where["offset"] + where["nbytes"]]
                assert there == tensor.numpy().tobytes()
                assert where["sha256"] == hashlib.sha256(there).hexdigest()
                assert (where["file"], where["tensor"], where["dtype"]) == (
                    listed["file"],
                    layer["name"],
                    "F32",
                )
                seen.setdefault(layer["name"], []).append(number)
        assert partition["total_params"] == listed["params"] == result.rows[number]["params"]
    embedding, last = "model.embed_tokens.weight", num_parts - 1
    copied = sorted({0, last}) if name == "tied" else [0]
    assert seen.pop(embedding) == copied
    assert set(seen) == set(original) - {embedding}
    assert all(len(where) == 1 for where in seen.values())
    assert seen["model.norm.weight"] == manifest["norm"] == manifest["head"] == [last]
    assert manifest["embedding"] == [0]
    assert manifest["tied"] == ([{"tensor": embedding, "parts": copied, "as": "head"}] if name == "tied" else [])
    assert manifest["layers"] == {"prefix": "model.layers", "count": LAYERS}
    ranges = [range(first, last + 1) for first, last in (listed["layers"] for listed in manifest["parts"])]
    assert [index for layers in ranges for index in layers] == list(range(LAYERS))
    totals, unique = manifest["totals"], sum(tensor.numel() for tensor in original.values())
    extra = original[embedding].numel() if len(copied) == 2 else 0
    assert (totals["unique_params"], totals["stored_params"]) == (unique, unique + extra)
    assert (totals["unique_bytes"], totals["stored_bytes"]) == (4 * unique, 4 * (unique + extra))
    assert result.metrics["total_params"] == unique
    assert result.metrics["balance"] >= 1
    assert sum(row["share"] for row in result.rows) == pytest.approx(1)
    assert str(models[name].parent) not in json.dumps(manifest)
    assert (manifest["source"]["name"], manifest["source"]["revision"]) == (name, None)
    assert {Path(path).name for path in result.artifacts} >= {"manifest.json", "part_0.safetensors"}
    assert all(Path(path).is_file() for path in result.artifacts)
    assert not [path for path in parts.rglob("*") if "tmp" in path.name or "unfinished" in path.name]


def test_mixed_widths_stay_aligned_and_open_on_their_own(tmp_path: Path, run_split: Split) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "config.json").write_text('{"num_hidden_layers": 2, "tie_word_embeddings": false}')
    kinds = {"int8": torch.int8, "half": torch.float16, "brain": torch.bfloat16, "wide": torch.float64}
    tensors = {f"h.{i}.{name}": torch.ones(3).to(kind) for i in range(2) for name, kind in kinds.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "by": "hand"})
    run_split(folder, 2)
    found = load_file(tmp_path / "parts" / "part_1.safetensors")
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        f"h.1.{name}": kind for name, kind in kinds.items()
    }
    with safe_open(tmp_path / "parts" / "part_1.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt", "by": "hand"}


def test_memory_does_not_grow_with_the_model(tmp_path: Path, run_split: Split) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text('{"num_hidden_layers": 2}')
    tensors = {f"h.{i}.w": torch.zeros(12, 2**20) for i in range(2)}
    save_file(tensors, folder / "model.safetensors")
    del tensors
    result = run_split(folder, 2)
    assert result.metrics["unique_mib"] == 96
    assert result.metrics["rss_growth_mib"] < 32


# ------------------------------------------------------------------------------- again, and somewhere else


def test_the_same_split_again_writes_the_same_bytes(models: dict[str, Path], run_split: Split, tmp_path: Path) -> None:
    run_split(models["tied"], 2)
    before = snapshot(tmp_path / "parts")
    (tmp_path / "parts" / "part_1.safetensors").unlink()
    run_split(models["tied"], 2)
    assert snapshot(tmp_path / "parts") == before


def test_an_interrupted_split_can_be_run_again(
    models: dict[str, Path], run_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_part = split._write_part

    def stop_at_the_second(folder: Path, part: Part, *rest: Any) -> Any:
        if part.part_id == 1:
            raise KeyboardInterrupt
        return write_part(folder, part, *rest)

    monkeypatch.setattr(split, "_write_part", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_split(models["tied"], 2)
    assert not (tmp_path / "parts" / "manifest.json").exists()
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"holds another split \(num_parts is 2 there and 3 here\)"):
        run_split(models["tied"], 3)
    run_split(models["tied"], 2)
    assert (tmp_path / "parts" / "manifest.json").exists()
    assert not (tmp_path / "parts" / "manifest.unfinished.json").exists()


def test_a_folder_of_something_else_is_left_alone(models: dict[str, Path], run_split: Split, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"task\.output_dir=.* not empty \(thesis\.txt.* Nothing was changed"):
        run_split(models["tied"], 2)
    assert snapshot(parts) == {"thesis.txt": b"mine"}
    (parts / "thesis.txt").unlink()
    run_split(models["tied"], 2)
    before = snapshot(parts)
    with pytest.raises(ConfigError, match=r"holds another split \(companions differ, source files differ\)"):
        run_split(models["untied"], 2)
    assert snapshot(parts) == before


# ----------------------------------------------------------------------------------------------- refusals


def test_more_parts_than_layers_are_refused(models: dict[str, Path], run_split: Split, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.num_parts=5: the model has 4 layers, so 4 parts at most"):
        run_split(models["tied"], 5)
    assert not (tmp_path / "parts").exists()


def test_choices_that_would_do_nothing_are_refused(
    models: dict[str, Path], run_split: Split, make_config: Callable[..., RunnerConfig]
) -> None:
    with pytest.raises(ConfigError, match="quantization=int8: task=split copies the checkpoint as it lies on disk"):
        run_split(models["tied"], 2, quantization=Int8Config())
    with pytest.raises(ConfigError, match="lora=peft: task=split copies"):
        run_split(models["tied"], 2, lora=PeftConfig(path="x"))
    with pytest.raises(ConfigError, match="model=stub has none"):
        split.evidence(make_config(task=SplitConfig(output_dir="x")))


def test_a_damaged_source_is_refused_and_nothing_is_left(
    models: dict[str, Path], run_split: Split, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes((models["tied"] / "config.json").read_bytes())
    with pytest.raises(DataError, match=r"holds neither model\.safetensors nor"):
        run_split(folder, 2)
    whole = (models["tied"] / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"model\.safetensors: truncated: tensor model\.norm\.weight should end at"):
        run_split(folder, 2)
    (folder / "config.json").write_text("{")
    (folder / "model.safetensors").write_bytes(whole)
    with pytest.raises(DataError, match=r"config\.json: not readable as JSON"):
        run_split(folder, 2)
    assert not (tmp_path / "parts").exists()


def test_too_little_room_is_refused_and_nothing_is_left(
    models: dict[str, Path], run_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 1024}))
    with pytest.raises(JobFailed, match=r"task\.output_dir=.*: 0\.\d MiB needed, 0\.0 MiB free"):
        run_split(models["tied"], 2)
    assert not (tmp_path / "parts").exists()

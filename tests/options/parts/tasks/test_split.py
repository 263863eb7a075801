"""task=split: parts that hold what the manifest says, bad inputs that leave nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import xxhash
from families import save
from raising import raises
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tasking import work

from runner.config.root import RunnerConfig
from runner.options.parts.keys import (
    ChecksumAlgorithm,
    CompareMode,
    ExplainTarget,
    SplitConfig,
    SplitStrategy,
)
from runner.options.parts.sharding import split_writer
from runner.options.parts.sharding.strategies import PlannedPart
from runner.options.parts.tasks import split
from runner.records.jobs import Job, Recorder
from runner_base.errors import ConfigError, DataError, JobFailed
from runner_base.files import lock_folder
from runner_base.result import Result
from runner_engine.checkpoints import file_io
from runner_engine.quantization.bitsandbytes import Int8Config
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import LocalModelConfig

LAYERS = 4
Split = Callable[..., Result]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny Llamas with four layers: head tied and in one file, head of its own and in shards."""
    shapes: dict[str, Any] = {
        "num_hidden_layers": LAYERS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "head_dim": 8,
    }
    make: Callable[..., Path] = partial(save, **shapes)
    root = tmp_path_factory.mktemp("models")
    return {"tied": make(root / "tied", tied=True), "untied": make(root / "untied", shard="30KB")}


@pytest.fixture
def run_split(tmp_path: Path, make_config: Callable[..., RunnerConfig]) -> Split:
    """Return a function that splits a folder into tmp_path/parts; keys are those of the task, and
    groups."""

    def run(folder: Path, num_parts: int | None, **keys: Any) -> Result:
        groups = {name: keys.pop(name) for name in ("quantization", "lora") if name in keys}
        task = SplitConfig(**({"num_parts": num_parts, "output_dir": str(tmp_path / "parts")} | keys))
        config = make_config(model=LocalModelConfig(name=str(folder)), task=task, **groups)
        assert set(split.prepare(config).hashes) == {"source"}
        (tmp_path / "job").mkdir(exist_ok=True)
        return work(split, config, Recorder(Job("split-test", tmp_path / "job")))

    return run


class Untouched:
    """An engine that must not be used."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the engine's {name} was asked for")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file is written anew: its inode, as each is written beside the old
    one."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def xxh3(content: bytes) -> str:
    return f"xxh3_128:{xxhash.xxh3_128_hexdigest(content)}"


# ------------------------------------------------------------------------------------------- output


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
        assert (listed["bytes"], listed["digest"]) == (len(content), xxh3(content))
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
                assert where["digest"] == xxh3(there)
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
    assert manifest["tied"] == (
        [{"tensor": embedding, "parts": copied, "as": "head"}] if name == "tied" else []
    )
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


# ------------------------------------------------------------------------------- again, and
# somewhere else


def test_nothing_is_touched_when_nothing_has_changed(
    models: dict[str, Path], run_split: Split, tmp_path: Path
) -> None:
    run_split(models["untied"], 2)
    before = states(tmp_path)
    again = run_split(models["untied"], 2)
    after = states(tmp_path)
    assert {name: state for name, state in after.items() if name.startswith("parts/")} == {
        name: state for name, state in before.items() if name.startswith("parts/")
    }
    assert (again.metrics["written_parts"], again.metrics["written_mib"]) == (0, 0)
    assert "nothing was written" in again.notes[-1]


def test_the_same_split_again_writes_what_is_missing(
    models: dict[str, Path], run_split: Split, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    run_split(models["tied"], 2)
    before, kept = snapshot(parts), states(parts)["part_0.safetensors"]
    (parts / "part_1.safetensors").unlink()
    (parts / "model_files" / "config.json").unlink()
    result = run_split(models["tied"], 2)
    assert result.metrics["written_parts"] == 1
    assert states(parts)["part_0.safetensors"] == kept
    after = snapshot(parts)
    assert set(after) == set(before)
    # which has times
    assert all(after[name] == before[name] for name in before if name != "manifest.json")


@pytest.mark.parametrize("name", ["part_1.safetensors", "partition_1.json"])
def test_what_somebody_has_changed_is_written_anew(
    models: dict[str, Path], run_split: Split, tmp_path: Path, name: str
) -> None:
    run_split(models["tied"], 2)
    target = tmp_path / "parts" / name
    whole = target.read_bytes()
    target.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert run_split(models["tied"], 2).metrics["written_parts"] == 1
    assert target.read_bytes() == whole


def test_one_shard_changed_rewrites_only_what_it_must(run_split: Split, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"num_hidden_layers": 4, "tie_word_embeddings": false}')
    shards = {f"s{n}.safetensors": {f"h.{n}.w": torch.full((64,), float(n))} for n in range(4)}
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    weight_map = {key: name for name, tensors in shards.items() for key in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert run_split(folder, 2).metrics["written_parts"] == 2
    parts = tmp_path / "parts"
    before = states(parts)
    save_file({"h.3.w": torch.full((64,), 7.0)}, folder / "s3.safetensors")
    result = run_split(folder, 2)
    after = states(parts)
    assert result.metrics["written_parts"] == 1
    assert {name for name in after if after[name] != before[name]} == {
        "part_1.safetensors",
        "partition_1.json",
        "manifest.json",
    }
    assert load_file(parts / "part_1.safetensors")["h.3.w"][0] == 7
    manifest = json.loads((parts / "manifest.json").read_text())
    assert manifest["parts"][1]["digest"] == xxh3((parts / "part_1.safetensors").read_bytes())


def test_content_is_compared_for_who_does_not_trust_times(
    run_split: Split, tmp_path: Path, models: Any
) -> None:
    """The state cannot show damage that keeps size and time; and a file that was only touched is no
    other file."""
    source = tmp_path / "model"
    shutil.copytree(models["tied"], source)
    run_split(source, 2)
    target = tmp_path / "parts" / "part_0.safetensors"
    whole, stat = target.read_bytes(), target.stat()
    target.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run_split(source, 2).metrics["written_parts"] == 0, "that is what a state can tell"
    assert run_split(source, 2, compare=CompareMode.content).metrics["written_parts"] == 1
    assert target.read_bytes() == whole
    os.utime(source / "model.safetensors")
    before = states(tmp_path / "parts")
    assert run_split(source, 2, compare=CompareMode.content).metrics["written_parts"] == 0
    after = states(tmp_path / "parts")
    assert {name for name in after if after[name] != before[name]} == {"manifest.json"}
    assert run_split(source, 2).metrics["written_parts"] == 0, "the manifest knows the new time"


def test_content_shows_a_source_that_kept_its_time(run_split: Split, tmp_path: Path, models: Any) -> None:
    source = tmp_path / "model"
    shutil.copytree(models["tied"], source)
    run_split(source, 2)
    file = source / "model.safetensors"
    stat, content = file.stat(), file.read_bytes()
    with file.open("r+b") as stream:
        stream.seek(len(content) - 4)
        stream.write(b"\0\0\0?")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run_split(source, 2).metrics["written_parts"] == 0
    assert run_split(source, 2, compare=CompareMode.content).metrics["written_parts"] == 1


def test_sha256_names_the_source_as_well(models: dict[str, Path], run_split: Split, tmp_path: Path) -> None:
    run_split(models["untied"], 2)
    run_split(models["untied"], 2, checksums=ChecksumAlgorithm.sha256)
    manifest = json.loads((tmp_path / "parts" / "manifest.json").read_text())
    assert manifest["checksums"] == "sha256"
    for entry in manifest["source"]["files"]:
        assert entry["digest"] == f"sha256:{file_io.hash_file_sha256(models['untied'] / entry['file'])}"
    for entry in manifest["parts"]:
        assert entry["digest"] == f"sha256:{file_io.hash_file_sha256(tmp_path / 'parts' / entry['file'])}"
    before = states(tmp_path / "parts")
    assert run_split(models["untied"], 2, checksums=ChecksumAlgorithm.sha256).metrics["written_parts"] == 0
    assert states(tmp_path / "parts") == before


def test_an_interrupted_split_goes_on_from_the_parts_that_are_done(
    models: dict[str, Path], run_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_part = split_writer._write_part

    def stop_at_the_second(folder: Path, part: PlannedPart, *rest: Any) -> Any:
        if part.part_id == 1:
            raise KeyboardInterrupt
        return write_part(folder, part, *rest)

    monkeypatch.setattr(split_writer, "_write_part", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_split(models["tied"], 2)
    parts = tmp_path / "parts"
    assert not (parts / "manifest.json").exists()
    monkeypatch.undo()
    with raises(ConfigError, "mismatch", "task.output_dir") as caught:
        run_split(models["tied"], 3)
    assert "num_parts" in caught.value.reason
    first = states(parts)["part_0.safetensors"]
    assert run_split(models["tied"], 2).metrics["written_parts"] == 1
    assert states(parts)["part_0.safetensors"] == first
    assert (parts / "manifest.json").exists()
    assert not (parts / "manifest.unfinished.json").exists()


def test_an_interrupted_update_leaves_no_manifest_that_lies(
    models: dict[str, Path], run_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_split(models["tied"], 2)
    (tmp_path / "parts" / "part_1.safetensors").unlink()

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(split_writer, "_write_part", stop)
    with pytest.raises(KeyboardInterrupt):
        run_split(models["tied"], 2)
    assert not (tmp_path / "parts" / "manifest.json").exists()
    monkeypatch.undo()
    assert run_split(models["tied"], 2).metrics["written_parts"] == 1


def test_a_source_that_changes_meanwhile_is_named(
    run_split: Split, tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "model"
    shutil.copytree(models["tied"], source)
    write_part = split_writer._write_part

    def touch(*arguments: Any) -> Any:
        os.utime(source / "model.safetensors", (1, 1))
        return write_part(*arguments)

    monkeypatch.setattr(split_writer, "_write_part", touch)
    with raises(DataError, "changed"):
        run_split(source, 2)
    assert not (tmp_path / "parts" / "manifest.json").exists()


def test_a_folder_of_something_else_is_left_alone(
    models: dict[str, Path], run_split: Split, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "thesis.txt").write_text("mine")
    with raises(ConfigError, "exists", "task.output_dir"):
        run_split(models["tied"], 2)
    assert snapshot(parts) == {"thesis.txt": b"mine"}
    (parts / "thesis.txt").unlink()
    run_split(models["tied"], 2)
    before = snapshot(parts)
    with raises(ConfigError, "mismatch", "task.output_dir"):
        run_split(models["untied"], 2)
    with raises(ConfigError, "mismatch", "task.output_dir") as caught:
        run_split(models["tied"], 2, strategy=SplitStrategy.equal_layers)
    assert "strategy" in caught.value.reason
    twin = tmp_path / "elsewhere" / "tied"
    shutil.copytree(models["tied"], twin)
    with raises(ConfigError, "mismatch", "task.output_dir"):
        run_split(twin, 2)
    assert snapshot(parts) == before
    shutil.rmtree(parts)
    parts.write_text("mine")
    with raises(ConfigError, "bad_value", "task.output_dir"):
        run_split(models["tied"], 2)


def test_a_second_process_is_kept_out(models: dict[str, Path], run_split: Split, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    held = lock_folder(tmp_path / "parts", "task.output_dir")
    with held, raises(ConfigError, "busy", "task.output_dir"):
        run_split(models["tied"], 2)
    assert not list((tmp_path / "parts").iterdir())


# ------------------------------------------------------------------------------------- what the
# user sees


def test_the_plan_is_told_before_and_drawn(
    models: dict[str, Path], run_split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_split(models["tied"], 2)
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert lines[0] == "tied in 2 parts, balanced_bytes"
    assert lines[1].split() == ["part", "layers", "also", "holds", "parameters", "MiB", "share"]
    assert lines[2].split()[:3] == ["0", "0-1", "embedding"]
    assert lines[3].split()[:5] == ["1", "2-3", "norm,", "tied", "head"]
    drawn = (tmp_path / "job" / "plan.svg").read_text()
    assert drawn.startswith("<svg ")
    assert drawn.count("<rect ") == 1 + 4 + 5, "paper, legend of four kinds, two sections and three"
    assert "part 1 · 2-3" in drawn
    ElementTree.fromstring(drawn)  # well-formed, or no browser shows it


def test_vllm_is_told_the_same_plan_and_nothing_is_written(
    models: dict[str, Path], run_split: Split, tmp_path: Path
) -> None:
    result = run_split(models["untied"], 3, explain=ExplainTarget.vllm)
    assert result.text is not None
    command = result.text.splitlines()[0]
    assert (
        command == f"VLLM_PP_LAYER_PARTITION=1,2,1 vllm serve {models['untied']} --pipeline-parallel-size 3"
    )
    assert "Use vLLM when" in result.text
    assert not (tmp_path / "parts").exists()
    assert result.artifacts == {}


def test_a_done_split_is_looked_after_when_asked_for_again(
    models: dict[str, Path], tmp_path: Path, runner: Callable[..., Any]
) -> None:
    asked = ["task=split", "model=auto", f"model.name={models['tied']}", "task.num_parts=2", "tracking=none"]
    planned = runner(*asked, "plan=true")
    assert planned.code == 0, planned.err
    assert "also holds" in planned.out
    assert not list(tmp_path.glob("outputs/parts/*"))
    first = runner(*asked, "print=json")
    assert first.code == 0, first.err
    assert "also holds" in first.err
    parts = tmp_path / "outputs" / "parts" / "tied-2"
    before = states(parts)
    again = runner(*asked)
    assert again.code == 0, again.err
    assert "is already complete" in again.err
    assert states(parts) == before
    target = parts / "part_0.safetensors"
    whole = target.read_bytes()
    target.write_bytes(whole[:100])
    assert "part_0.safetensors has changed since" in runner(*asked).err
    assert target.read_bytes() == whole


# ----------------------------------------------------------------------------------------- refusals


def test_more_parts_than_layers_are_refused(
    models: dict[str, Path], run_split: Split, tmp_path: Path
) -> None:
    with raises(ConfigError, "too_large", "task.num_parts"):
        run_split(models["tied"], 5)
    assert not (tmp_path / "parts").exists()


def test_choices_that_would_do_nothing_are_refused(
    models: dict[str, Path], run_split: Split, make_config: Callable[..., RunnerConfig]
) -> None:
    with raises(ConfigError, "conflict", "quantization"):
        run_split(models["tied"], 2, quantization=Int8Config())
    with raises(ConfigError, "conflict", "lora"):
        run_split(models["tied"], 2, lora=PeftConfig(path="x"))
    with raises(ConfigError, "unsupported"):
        split.prepare(make_config(task=SplitConfig(output_dir="x")))


def test_a_damaged_source_is_refused_and_nothing_is_left(
    models: dict[str, Path], run_split: Split, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes((models["tied"] / "config.json").read_bytes())
    with raises(DataError, "not_found"):
        run_split(folder, 2)
    whole = (models["tied"] / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    with raises(DataError, "damaged", folder / "model.safetensors"):
        run_split(folder, 2)
    (folder / "config.json").write_text("{")
    (folder / "model.safetensors").write_bytes(whole)
    with raises(DataError, "damaged", folder / "config.json"):
        run_split(folder, 2)
    assert not (tmp_path / "parts").exists()


def test_too_little_room_is_refused_and_nothing_is_left(
    models: dict[str, Path], run_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 1024}))
    with raises(JobFailed, "too_large", "task.output_dir"):
        run_split(models["tied"], 2)
    assert not (tmp_path / "parts").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_keeps_whole_parts_only(
    run_split: Split, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text('{"num_hidden_layers": 2}')
    save_file({f"h.{n}.w": torch.full((16000,), float(n)) for n in range(2)}, source / "model.safetensors")
    parts = small_disk / "parts"
    (small_disk / "filler").write_bytes(bytes(80 * 1024))
    with raises(JobFailed, "too_large", "task.output_dir"):
        run_split(source, 2, output_dir=str(parts))
    assert not parts.exists()
    # another program may fill the disk meanwhile
    monkeypatch.setattr(file_io, "require_disk_space", lambda *_: None)
    with raises(JobFailed, "too_large"):
        run_split(source, 2, output_dir=str(parts))
    assert sorted(path.name for path in parts.iterdir() if path.is_file()) == [
        "manifest.unfinished.json",
        "part_0.safetensors",
        "partition_0.json",
    ]
    assert load_file(parts / "part_0.safetensors")["h.0.w"].shape == (16000,)
    (small_disk / "filler").unlink()
    assert run_split(source, 2, output_dir=str(parts)).metrics["written_parts"] == 1
    assert (parts / "manifest.json").exists()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"h.0.w": "../evil.safetensors", "h.1.w": "s1.safetensors"}, "expected a bare file name"),
        (
            {"h.0.w": "s0.safetensors", "h.1.w": "s2.safetensors"},
            "the index lists s2.safetensors, which does not exist",
        ),
        (
            {"h.0.w": "s1.safetensors", "h.1.w": "s0.safetensors"},
            "the index lists tensor h.0.w in s1.safetensors, but it is in s0.safetensors",
        ),
    ],
)
def test_an_index_that_lies_is_refused_and_nothing_is_left(
    run_split: Split, tmp_path: Path, index: dict[str, str], message: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"num_hidden_layers": 2}')
    for number in range(2):
        save_file({f"h.{number}.w": torch.ones(3)}, folder / f"s{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(DataError, match=message):
        run_split(folder, 2)
    assert not (tmp_path / "parts").exists()


def test_a_bin_that_would_run_is_refused_and_nothing_is_left(
    tmp_path: Path, runner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = tmp_path / "model", tmp_path / "it-ran"
    folder.mkdir()
    (folder / "config.json").write_text('{"num_hidden_layers": 2}')

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(mark),)

    torch.save({"w": Evil()}, folder / "pytorch_model.bin")
    done = runner(
        "task=split", "model=auto", f"model.name={folder}", "task.output_dir=parts", "tracking=none"
    )
    assert (done.code, done.out) == (2, "")
    assert "pytorch_model.bin contains code (posix.mkdir) and was rejected. The code was not run" in done.err
    assert "weights_only" not in done.err
    assert done.err.count("\n") == 1
    assert not mark.exists()
    assert not (tmp_path / "parts").exists()


def test_random_weights_are_planned_before_they_are_made(tmp_path: Path, runner: Callable[..., Any]) -> None:
    asked = [
        "task=split",
        "model=smollm2_135m",
        "model.random_weights=true",
        f"model.cache_dir={tmp_path / 'cache'}",
    ]
    planned = runner(*asked, "task.num_parts=3", "tracking=none", "plan=true")
    assert planned.code == 0, planned.err
    assert "norm, tied head" in planned.out
    assert not (tmp_path / "cache").exists()


def test_the_help_has_its_keys(runner: Callable[..., Any]) -> None:
    done = runner("task=split", "--help")
    assert done.code == 0
    assert "  task.compare=state " in done.out
    assert max(map(len, done.out.splitlines())) <= 100

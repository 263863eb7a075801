"""task=merge: what was split comes back byte for byte, and a damaged or hostile split does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from families import save
from raising import raises
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from trips import Trip, contents, flip_last_byte

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError, DataError, JobFailed

pytestmark = pytest.mark.slow

LAYERS = 3


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind: transformers' own, tied or not, one file or shards, and one of all dtypes."""
    folders = {
        name: tmp_path_factory.mktemp("sources") / name for name in ("one", "shards", "half", "dtypes")
    }
    shapes: dict[str, Any] = {
        "num_hidden_layers": LAYERS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "head_dim": 8,
    }
    save(folders["one"], tied=True, **shapes)
    save(folders["shards"], shard="20KB", **shapes)
    save(folders["half"], tied=True, shard="10KB", dtype="bfloat16", **shapes)
    torch.manual_seed(2)
    kinds = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float32)
    tensors = {
        f"h.{i}.w{n}": (torch.randn(3, 5) * 3).to(kind) for i in range(LAYERS) for n, kind in enumerate(kinds)
    }
    tensors |= {
        "wte.weight": torch.randn(7, 5),
        "ln_f.weight": torch.tensor([float("nan"), -0.0, float("inf")]),
    }
    tensors |= {
        "h.1.flag": torch.tensor([True, False, True]),
        "h.2.count": torch.tensor(5),
        "h.0.none": torch.zeros(0, 4),
    }
    folders["dtypes"].mkdir()
    (folders["dtypes"] / "config.json").write_text(json.dumps({"n_layer": LAYERS}))
    (folders["dtypes"] / "LICENSE").write_text("free")
    save_file(tensors, folders["dtypes"] / "model.safetensors", metadata={"format": "pt", "note": "kept"})
    folders["bin"] = checkpoints.save_bin(tmp_path_factory.mktemp("sources") / "bin", shards=2)
    return folders


@pytest.mark.sampled(2)
@pytest.mark.parametrize("num_parts", range(1, LAYERS + 1))
@pytest.mark.parametrize("name", ["one", "shards", "half", "dtypes"])
def test_a_round_trip_gives_the_same_folder(
    sources: dict[str, Path], trip: Trip, name: str, num_parts: int
) -> None:
    trip.split(sources[name], num_parts)
    result = trip.merge()
    assert contents(trip.merged) == contents(sources[name])
    files = sorted(sources[name].glob("*.safetensors"))
    assert (len(files) > 1) == (name in ("shards", "half"))
    count = 0
    for file in files:  # through safetensors itself: tensor for tensor, dtype for dtype
        before = load_file(file)
        checkpoints.assert_same(before, load_file(trip.merged / file.name))
        count += len(before)
    assert (result.metrics["tensors"], result.metrics["files"]) == (count, len(files))
    assert result.metrics["num_parts"] == num_parts
    assert [row["file"] for row in result.rows] == [file.name for file in files]
    assert all(Path(path).is_file() for path in result.artifacts)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["one", "shards", "bin"])
def test_the_merged_folder_loads_and_gives_the_same_logits(
    sources: dict[str, Path], trip: Trip, name: str
) -> None:
    trip.split(sources[name], 2)
    trip.merge()
    tokens = torch.arange(12).reshape(2, 6)
    logits = []
    for folder in (sources[name], trip.merged):
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        model, loading = loaded
        assert not loading["missing_keys"]
        with torch.no_grad():
            logits.append(model(tokens).logits)
    assert torch.equal(*logits)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("part_1.safetensors", flip_last_byte),
        ("part_1.safetensors", lambda path: path.unlink()),
        ("part_0.safetensors", lambda path: path.write_bytes(b"x")),
        ("partition_0.json", flip_last_byte),
        ("partition_1.json", lambda path: path.unlink()),
        ("model_files/config.json", flip_last_byte),
        ("model_files/config.json", lambda path: path.unlink()),
        ("source_headers/model.safetensors.header", flip_last_byte),
    ],
)
def test_a_damaged_split_is_named_and_nothing_is_written(
    sources: dict[str, Path], trip: Trip, name: str, damage: Callable[[Path], object]
) -> None:
    trip.split(sources["one"], 2)
    damage(trip.parts / name)
    with raises(DataError, "damaged", "task.parts") as caught:
        trip.merge()
    assert f"{name}: " in caught.value.reason
    assert not trip.merged.exists()


def test_all_damage_is_said_at_once(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["one"], 3)
    flip_last_byte(trip.parts / "part_0.safetensors")
    (trip.parts / "part_2.safetensors").unlink()
    with pytest.raises(DataError) as caught:
        trip.merge()
    assert "part_0.safetensors: xxh3_128" in str(caught.value)
    assert "part_2.safetensors: missing" in str(caught.value)


def test_swapped_parts_are_found(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["shards"], 2)
    first, second = (trip.parts / f"part_{number}.safetensors" for number in range(2))
    shutil.move(first, trip.parts / "aside")
    shutil.move(second, first)
    shutil.move(trip.parts / "aside", second)
    with raises(DataError, "damaged", "task.parts") as caught:
        trip.merge()
    assert "lm_head.weight" in caught.value.reason
    assert not trip.merged.exists()


def test_a_missing_tensor_is_named(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["dtypes"], 2)
    trip.forge(1, lambda tensors: tensors.pop("h.2.w1"))
    with raises(DataError, "damaged", "task.parts") as caught:
        trip.merge()
    assert "h.2.w1" in caught.value.reason


def test_a_result_that_differs_from_the_source_is_never_kept(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["one"], 2)
    digest = "sha256:" + 64 * "0"
    trip.edit(lambda manifest: manifest["source"]["files"][0].update(digest=digest))
    with raises(JobFailed, "mismatch"):
        trip.merge()
    assert not list(trip.merged.glob("model.safetensors*"))


@pytest.mark.parametrize("name", ["shards", "bin"])
def test_an_interrupted_merge_goes_on_and_keeps_what_is_right(
    sources: dict[str, Path], trip: Trip, name: str
) -> None:
    trip.split(sources[name], 2)
    trip.merge()
    whole, shards = contents(trip.merged), sorted(trip.merged.glob("*.safetensors"))
    kept = shards[0].stat().st_mtime_ns
    shards[1].rename(shards[1].with_name(shards[1].name + ".tmp"))
    trip.merge()
    assert contents(trip.merged) == whole
    assert shards[0].stat().st_mtime_ns == kept
    assert trip.merge().notes == ["all files existed already: nothing was written"]


@pytest.mark.parametrize("name", ["one", "bin"])
def test_a_folder_of_something_else_is_left_alone(sources: dict[str, Path], trip: Trip, name: str) -> None:
    trip.split(sources[name], 2)
    trip.merge()
    damaged = sorted(trip.merged.glob("*.safetensors"))[0]
    flip_last_byte(damaged)
    there = contents(trip.merged)
    with raises(ConfigError, "exists", "task.output_dir") as caught:
        trip.merge()
    assert damaged.name in caught.value.reason
    assert contents(trip.merged) == there
    other = trip.folder / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with raises(ConfigError, "exists", "task.output_dir") as caught:
        trip.merge(into=other)
    assert "notes.txt" in caught.value.reason
    assert contents(other) == {"notes.txt": b"mine"}


def test_dtype_is_for_numbers_without_one(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["one"], 2)
    with raises(ConfigError, "no_effect", "task.dtype"):
        trip.merge(dtype=Dtype.bfloat16)


def test_a_bin_becomes_the_files_that_safetensors_itself_would_write(
    sources: dict[str, Path], trip: Trip
) -> None:
    source = checkpoints.save_bin(trip.folder / "source", "gpt2")
    trip.split(source, 3)
    result = trip.merge()
    assert {path.name for path in trip.merged.iterdir()} == {"config.json", "model.safetensors"}
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    save_file(
        {name: tensor.clone() for name, tensor in state.items()},
        trip.folder / "own",
        metadata={"format": "pt"},
    )
    assert (trip.merged / "model.safetensors").read_bytes() == (trip.folder / "own").read_bytes()
    assert "the format is now safetensors" in result.facts["bit_identical"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_without_room_is_said_before_anything_is_written(
    sources: dict[str, Path], trip: Trip, small_disk: Path
) -> None:
    trip.split(sources["shards"], 2)
    with raises(JobFailed, "too_large", "task.output_dir"):
        trip.merge(into=small_disk / "merged")
    assert os.listdir(small_disk) == []


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    sources: dict[str, Path], trip: Trip, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trip.split(sources["shards"], 2)
    # somebody else takes the room meanwhile
    monkeypatch.setattr("runner_engine.checkpoints.file_io.require_disk_space", lambda *_: None)
    with raises(JobFailed, "too_large"):
        trip.merge(into=small_disk)
    whole, there = contents(sources["shards"]), contents(small_disk)
    assert there
    assert set(there) < set(whole)
    assert all(content == whole[name] for name, content in there.items()), "what is there is whole"
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    trip.merge(into=small_disk)
    assert contents(small_disk) == whole


def test_memory_does_not_grow_with_the_model(trip: Trip) -> None:
    """Sixteen times the buffer in one tensor: only pieces of it are ever held."""
    import tracemalloc

    source = trip.folder / "source"
    source.mkdir()
    (source / "config.json").write_text('{"n_layer": 2}')
    tensors = {f"h.{number}.w": torch.full((8 * 2**20,), number, dtype=torch.uint8) for number in range(2)}
    save_file(tensors, source / "model.safetensors")
    trip.split(source, 2)
    tracemalloc.start()
    trip.merge()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * 2**20
    assert contents(trip.merged) == contents(source)


def test_the_manifest_is_checked_by_type_and_place(sources: dict[str, Path], trip: Trip) -> None:
    with raises(ConfigError, "not_found", "task.parts"):
        trip.merge()
    trip.split(sources["one"], 2)

    def escape(manifest: dict[str, Any]) -> None:
        manifest["companions"][0]["file"] = "../../evil"

    trip.edit(escape)
    with raises(DataError, "damaged", trip.parts / "manifest.json"):
        trip.merge()
    assert not (trip.folder / "evil").exists()
    assert not trip.merged.exists()


@pytest.mark.thorough
def test_a_result_that_is_asked_for_from_another_folder_is_there_and_a_damaged_one_is_not_done(
    sources: dict[str, Path], trip: Trip, runner: Callable[..., Any], tmp_path: Path
) -> None:
    trip.split(sources["one"])
    asked = ["task=merge", f"task.parts={trip.parts}", "task.output_dir=whole", "tracking=none", "print=json"]
    asked.append(f"output_dir={tmp_path / 'outputs'}")
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        done = runner(*asked, cwd=folder)
        assert done.code == 0, done.err
        assert contents(folder / "whole") == contents(sources["one"])
    again = runner(*asked, cwd=there)
    assert "is already complete" in again.err
    (there / "whole" / "model.safetensors").write_bytes(b"")
    refused = runner(*asked, cwd=there)
    assert refused.code == 2
    assert "already done" not in refused.err
    assert "contains model.safetensors, which this merge does not write" in refused.err
    (there / "whole" / "model.safetensors").unlink()
    assert runner(*asked, cwd=there).code == 0
    assert contents(there / "whole") == contents(sources["one"])

"""task=merge: what was split comes back byte for byte, and a damaged or hostile split does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from families import save
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from runner.config import MergeConfig, ModelConfig, RunnerConfig, SplitConfig
from runner.errors import ConfigError, DataError, JobFailed
from runner.jobs import Job, Recorder
from runner.result import Result
from runner.tasks import merge, split

LAYERS = 3
ENGINE: Any = object()  # neither task touches it


@dataclass
class Trip:
    """One split and merge under a folder of its own."""

    folder: Path
    make_config: Callable[..., RunnerConfig]

    @property
    def parts(self) -> Path:
        return self.folder / "parts"

    @property
    def merged(self) -> Path:
        return self.folder / "merged"

    def split(self, source: Path, num_parts: int) -> Result:
        task = SplitConfig(num_parts=num_parts, output_dir=str(self.parts))
        return split.execute(self.make_config(model=ModelConfig(name=str(source)), task=task), ENGINE, self.recorder())

    def merge(self) -> Result:
        config = self.make_config(task=MergeConfig(parts=str(self.parts), output_dir=str(self.merged)))
        assert set(merge.evidence(config)) == {"manifest"}
        return merge.execute(config, ENGINE, self.recorder())

    def recorder(self) -> Recorder:
        (self.folder / "job").mkdir(exist_ok=True)
        return Recorder(Job("split-test", self.folder / "job"))

    def edit_manifest(self, change: Callable[[dict[str, Any]], object]) -> None:
        path = self.parts / "manifest.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))


@pytest.fixture
def trip(tmp_path: Path, make_config: Callable[..., RunnerConfig]) -> Trip:
    return Trip(tmp_path, make_config)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind: transformers' own, tied or not, one file or shards, and one of all dtypes."""
    folders = {name: tmp_path_factory.mktemp("sources") / name for name in ("one", "shards", "half", "dtypes")}
    shapes = {"num_hidden_layers": LAYERS, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8}
    save(folders["one"], tied=True, **shapes)
    save(folders["shards"], shard="20KB", **shapes)
    save(folders["half"], tied=True, shard="10KB", dtype="bfloat16", **shapes)
    torch.manual_seed(2)
    kinds = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float32)
    tensors = {f"h.{i}.w{n}": (torch.randn(3, 5) * 3).to(kind) for i in range(LAYERS) for n, kind in enumerate(kinds)}
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
    return folders


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("num_parts", range(1, LAYERS + 1))
@pytest.mark.parametrize("name", ["one", "shards", "half", "dtypes"])
def test_a_round_trip_gives_the_same_folder(sources: dict[str, Path], trip: Trip, name: str, num_parts: int) -> None:
    trip.split(sources[name], num_parts)
    result = trip.merge()
    assert contents(trip.merged) == contents(sources[name])
    files = sorted(sources[name].glob("*.safetensors"))
    assert (len(files) > 1) == (name in ("shards", "half"))
    count = 0
    for file in files:  # through safetensors itself: tensor for tensor, dtype for dtype
        before, after = load_file(file), load_file(trip.merged / file.name)
        assert set(before) == set(after)
        for key, tensor in before.items():
            assert (tensor.dtype, tensor.shape) == (after[key].dtype, after[key].shape)
            assert as_bytes(tensor) == as_bytes(after[key])
        count += len(before)
    assert (result.metrics["tensors"], result.metrics["files"]) == (count, len(files))
    assert result.metrics["num_parts"] == num_parts
    assert [row["file"] for row in result.rows] == [file.name for file in files]
    assert all(Path(path).is_file() for path in result.artifacts)


@pytest.mark.parametrize("name", ["one", "shards"])
def test_the_merged_folder_loads_and_gives_the_same_logits(sources: dict[str, Path], trip: Trip, name: str) -> None:
    trip.split(sources[name], 2)
    trip.merge()
    tokens = torch.arange(12).reshape(2, 6)
    logits = []
    for folder in (sources[name], trip.merged):
        model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not loading["missing_keys"]
        with torch.no_grad():
            logits.append(model(tokens).logits)
    assert torch.equal(*logits)


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "part_1.safetensors",
            flip_last_byte,
            r"part part_1\.safetensors is damaged: sha256 \w+ expected, \w+ found",
        ),
        ("part_1.safetensors", lambda path: path.unlink(), r"part part_1\.safetensors is missing"),
        (
            "part_0.safetensors",
            lambda path: path.write_bytes(b"x"),
            r"part part_0.* \d+ bytes expected, 1 found",
        ),
        ("model_files/config.json", flip_last_byte, r"model_files/config\.json is damaged"),
        ("model_files/config.json", lambda path: path.unlink(), r"model_files/config\.json is missing"),
        ("source_headers/model.safetensors.header", flip_last_byte, r"source_headers/model.* is damaged"),
    ],
)
def test_a_damaged_split_is_named_and_nothing_is_written(
    sources: dict[str, Path], trip: Trip, name: str, damage: Callable[[Path], object], message: str
) -> None:
    trip.split(sources["one"], 2)
    damage(trip.parts / name)
    with pytest.raises(DataError, match=message):
        trip.merge()
    assert not trip.merged.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m["parts"][0].update(file="../part_0.safetensors"),
            r"parts: a bare file name .*'\.\./part_0",
        ),
        (
            lambda m: m["source"]["files"][0].update(file="/tmp/x"),
            r"source\.files: a bare file name expected",
        ),
        (
            lambda m: m["companions"][0].update(file=".."),
            r"companions: a bare file name expected, found '\.\.'",
        ),
        (lambda m: m["headers"][0].update(file="a\\b"), r"headers: a bare file name expected"),
        (lambda m: m["headers"][0].update(file="other.header"), r"headers: one for each of source\.files"),
        (lambda m: m["companions"][0].update(file="model.safetensors"), r"name the same file twice"),
        (lambda m: m["parts"].pop(), r"num_parts=2, but 1 parts are listed"),
        (
            lambda m: m["parts"][1].pop("sha256"),
            r"parts: part_1\.safetensors needs bytes and sha256, found \d+ and None",
        ),
        (lambda m: m.pop("companions"), r"companions: a list of files expected"),
        (lambda m: m.update(source="x"), r"source: a JSON object expected"),
        (lambda m: m.update(format_version=9), r"runner-split version 1 expected, found runner-split 9"),
    ],
)
def test_a_manifest_that_is_not_one_is_refused(
    sources: dict[str, Path], trip: Trip, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    trip.split(sources["one"], 2)
    trip.edit_manifest(change)
    with pytest.raises(DataError, match=message):
        trip.merge()
    assert not trip.merged.exists()


def test_a_missing_tensor_is_named(sources: dict[str, Path], trip: Trip) -> None:
    """Two parts that are whole, each, but of which one stands in for the other."""
    trip.split(sources["dtypes"], 2)

    def twice(manifest: dict[str, Any]) -> None:
        manifest["parts"][1] = manifest["parts"][0]

    trip.edit_manifest(twice)
    with pytest.raises(DataError, match=r"model\.safetensors\.header: tensor h\.\d\.\w+ is in none of the parts"):
        trip.merge()


def test_a_result_that_differs_from_the_source_is_never_kept(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["one"], 2)
    trip.edit_manifest(lambda manifest: manifest["source"]["files"][0].update(sha256="00"))
    with pytest.raises(JobFailed, match=r"model\.safetensors would not equal the original: sha256 00 expected"):
        trip.merge()
    assert not list(trip.merged.glob("model.safetensors*"))


def test_no_split_there_is_said(sources: dict[str, Path], trip: Trip) -> None:
    with pytest.raises(ConfigError, match=r"task\.parts=.*: no manifest\.json there; give what task=split wrote"):
        trip.merge()
    trip.split(sources["one"], 2)
    (trip.parts / "manifest.json").rename(trip.parts / "manifest.unfinished.json")
    with pytest.raises(ConfigError, match="the split was interrupted: run the same task=split again"):
        trip.merge()


def test_an_interrupted_merge_goes_on_and_keeps_what_is_right(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["shards"], 2)
    trip.merge()
    shards = sorted(trip.merged.glob("*.safetensors"))
    kept = shards[0].stat().st_mtime_ns
    shards[1].rename(shards[1].with_name(shards[1].name + ".tmp"))
    trip.merge()
    assert contents(trip.merged) == contents(sources["shards"])
    assert shards[0].stat().st_mtime_ns == kept
    assert trip.merge().notes == ["all files were there already, each with the right SHA-256: nothing was written"]


def test_a_folder_of_something_else_is_left_alone(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["one"], 2)
    trip.merged.mkdir()
    (trip.merged / "config.json").write_text("another model")
    with pytest.raises(ConfigError, match=r"task\.output_dir=.*: holds config\.json, which is not what this merge"):
        trip.merge()
    assert contents(trip.merged) == {"config.json": b"another model"}

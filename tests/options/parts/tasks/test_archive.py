"""task=archive: ordinary zstd files that merge and verify read as they are, and that unpack to the
same parts."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import pyarrow
import pytest
import torch
from raising import raises
from safetensors.torch import save_file
from trips import Trip, contents, flip_last_byte

from runner.options.parts.keys import VerifyLevel
from runner.options.parts.sharding import zstd_archive
from runner.options.parts.sharding.manifest import read_manifest
from runner_base.errors import ConfigError, DataError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a tiny part has many, and tensors lie across their seams."""
    monkeypatch.setattr(zstd_archive, "FRAME_BYTES", 1000)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save(tmp_path_factory.mktemp("source") / "llama", dtype="bfloat16", shard="20KB")


def without_times(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, but for when the parts were written."""
    found = contents(folder)
    manifest = json.loads(found.pop("manifest.json"))
    for part in manifest["parts"]:
        part.pop("mtime_ns")
    return found | {"manifest.json": json.dumps(manifest, sort_keys=True).encode()}


def test_packed_parts_verify_merge_and_unpack(source: Path, trip: Trip) -> None:
    trip.split(source, 2)
    packed = trip.pack()
    assert sorted(path.name for path in trip.packed.glob("part_*")) == [
        "part_0.safetensors.zst",
        "part_1.safetensors.zst",
    ]
    assert packed.metrics["raw_mib"] > packed.metrics["archive_mib"]
    assert len(read_manifest(trip.packed).parts[0].frames) > 20
    for level in VerifyLevel:
        assert trip.verify(trip.packed, source=source, level=level).problems == []
    trip.merge(trip.packed)
    assert contents(trip.merged) == contents(source)
    trip.unpack(trip.folder / "again")
    assert without_times(trip.folder / "again") == without_times(trip.parts)


def test_any_zstd_unpacks_a_part(source: Path, trip: Trip) -> None:
    trip.split(source, 2)
    trip.pack()
    for number in range(2):
        with pyarrow.input_stream(str(trip.packed / f"part_{number}.safetensors.zst")) as stream:
            assert stream.read() == (trip.parts / f"part_{number}.safetensors").read_bytes()


def test_damage_is_named(source: Path, trip: Trip) -> None:
    trip.split(source, 2)
    trip.pack()
    flip_last_byte(trip.packed / "part_1.safetensors.zst")
    assert any(
        "part_1.safetensors.zst: xxh3_128:" in problem for problem in trip.verify(trip.packed).problems
    )
    with raises(DataError, "damaged", "task.parts") as caught:
        trip.merge(trip.packed)
    assert "part_1.safetensors.zst" in caught.value.reason
    assert not trip.merged.exists()
    (trip.packed / "part_0.safetensors.zst").write_bytes(b"short")
    problems = trip.verify(trip.packed, level=VerifyLevel.quick).problems
    assert any("part_0.safetensors.zst" in problem and "5 found" in problem for problem in problems)


def test_frames_that_lie_are_named(source: Path, trip: Trip) -> None:
    trip.split(source, 2)
    trip.pack()
    path = trip.packed / "manifest.json"
    values = json.loads(path.read_text())
    values["parts"][0]["frames"][0] += 1
    path.write_text(json.dumps(values))
    problems = trip.verify(trip.packed).problems
    assert any("part_0.safetensors.zst: expected " in it and " frames with " in it for it in problems), (
        problems
    )
    values["parts"][0]["frames"][1] -= 1
    path.write_text(json.dumps(values))
    problems = trip.verify(trip.packed).problems
    assert any("part_0.safetensors.zst: frame 0 cannot be decompressed" in it for it in problems), problems


def test_an_archive_is_not_loaded_and_says_how_to_unpack(source: Path, trip: Trip) -> None:
    trip.split(source, 2)
    trip.pack()
    with raises(ConfigError, "unsupported", "task.parts"):
        read_manifest(trip.packed).require_parts_runnable_as_stages()
    trip.packed.rename(trip.folder / "aside")
    trip.parts.rename(trip.packed)
    with raises(ConfigError, "no_effect", "task.archive"):
        trip.unpack(trip.folder / "again")


def test_an_interrupted_packing_goes_on(source: Path, trip: Trip, monkeypatch: pytest.MonkeyPatch) -> None:
    trip.split(source, 3)
    real, calls = zstd_archive.compress_frames, []

    def breaks(pieces: object, frames: list[int]) -> object:
        calls.append(frames)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(pieces, frames)  # type: ignore[arg-type]

    monkeypatch.setattr("runner.options.parts.tasks.archive.compress_frames", breaks)
    with pytest.raises(KeyboardInterrupt):
        trip.pack()
    assert not (trip.packed / "manifest.json").exists()
    with raises(ConfigError, "not_found", "task.parts"):
        trip.verify(trip.packed)
    first = trip.packed / "part_0.safetensors.zst"
    kept = first.stat().st_mtime_ns
    trip.pack()
    assert len(calls) == 4, "the first part is not packed again"
    assert first.stat().st_mtime_ns == kept
    assert trip.verify(trip.packed, source=source).problems == []
    with raises(ConfigError, "exists", "task.output_dir"):
        trip.pack()


def test_what_zstd_gains(trip: Trip, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights as they are drawn: bfloat16 shrinks to about four fifths, int8 noise does not at
    all."""
    monkeypatch.undo()
    source = trip.folder / "source"
    source.mkdir()
    (source / "config.json").write_text('{"n_layer": 2}')
    torch.manual_seed(0)
    state = {
        "h.0.w": (torch.randn(1000, 1000) * 0.02).bfloat16(),
        "h.1.w": torch.randint(-128, 127, (2000, 1000)).to(torch.int8),
    }
    save_file(state, source / "model.safetensors")
    trip.split(source, 2)
    shares = [row["share_of_raw"] for row in trip.pack().rows]
    assert 0.7 < shares[0] < 0.85
    assert 0.95 < shares[1] < 1.01

"""manifest.json: read by type, bound to its folder, and refused where it contradicts itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from trips import Trip

from runner.options.parts.sharding.manifest import read_manifest
from runner_base.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save(tmp_path_factory.mktemp("source") / "llama", tie_word_embeddings=True)


def test_what_split_writes_is_read(source: Path, trip: Trip) -> None:
    trip.split(source, 3)
    manifest = read_manifest(trip.parts)
    assert (manifest.num_parts, manifest.num_layers, manifest.prefix) == (3, 3, "model.layers")
    assert [part.layers for part in manifest.parts] == [(0, 0), (1, 1), (2, 2)]
    assert manifest.source_format == "safetensors"
    assert manifest.holders == {"embedding": (0,), "norm": (2,), "head": (2,)}
    assert manifest.tied == {"model.embed_tokens.weight": (0, 2)}
    assert manifest.totals.stored_bytes > manifest.totals.unique_bytes
    manifest.require_runnable()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m["parts"][0].update(file="../part_0.safetensors"),
            r"parts\[0\]: a bare file name .*'\.\./part_0",
        ),
        (lambda m: m["parts"][0].update(partition="x/y"), r"parts\[0\]\.partition: a bare file name .*'x/y'"),
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
        (lambda m: m["parts"].reverse(), r"parts\[0\]: part 0 with part_0\.\w+ .* found part 1 with part_1"),
        (
            lambda m: m["parts"][1].update(file="part_0.safetensors"),
            r"parts\[1\]: part 1 .* found part 1 with part_0",
        ),
        (
            lambda m: m["parts"][1].pop("digest"),
            r"parts\[1\]: part_1\.safetensors: a digest expected, found None",
        ),
        (
            lambda m: m["parts"][1].update(digest="crc:1"),
            r"parts\[1\]: part_1\.safetensors: a digest such as .*'crc:1'",
        ),
        (
            lambda m: m["parts"][1].update(bytes=-1),
            r"bytes of part_1\.safetensors, a whole number from 0, .*found -1",
        ),
        (lambda m: m["parts"][1].update(bytes=True), r"bytes of part_1\.safetensors.* found True"),
        (
            lambda m: m["parts"][1].update(layers=[0, 2]),
            r"parts\[1\]\.layers: a range from 2 .* found \[0, 2\]",
        ),
        (lambda m: m["parts"][1].update(layers=[2, 9]), r"parts\[1\]\.layers: a range from 2 to 2 at most"),
        (lambda m: m["parts"][1].update(layers=None), r"parts: layers 0\.\.2 expected, found 0\.\.1 only"),
        (lambda m: m["parts"][1].update(layers="all"), r"parts\[1\]\.layers: a list expected, found 'all'"),
        (lambda m: m.update(embedding=[7]), r"embedding: part ids below 2 expected, found \[7\]"),
        (lambda m: m["tied"][0].update(parts=[0, 5]), r"tied: model\.embed_tokens\.weight: part ids below 2"),
        (lambda m: m.pop("companions"), r"companions: a list expected, found None"),
        (lambda m: m.update(source="x"), r"source: a JSON object expected, found 'x'"),
        (
            lambda m: m["source"].update(format="gguf"),
            r"source\.format: safetensors or bin expected, found 'gguf'",
        ),
        (lambda m: m.update(archive="rar"), r"archive: null or zstd expected, found 'rar'"),
        (lambda m: m.update(contiguous=1), r"contiguous: True or False expected, found 1"),
        (
            lambda m: m["totals"].pop("tensors"),
            r"totals\.tensors: a whole number from 0 expected, found None",
        ),
        (lambda m: m.update(format_version=9), r"runner-split version 2 expected, found runner-split 9"),
        (lambda m: m.update(format="other"), r"runner-split version 2 expected, found other 2"),
    ],
)
def test_a_manifest_that_is_not_one_is_refused(
    source: Path, trip: Trip, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    trip.split(source, 2)
    trip.edit(change)
    with pytest.raises(DataError, match=message):
        read_manifest(trip.parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda files: files[0].pop("tensors"),
            r"-of-00002\.bin: tensors: a list of names expected, found none",
        ),
        (
            lambda files: files[0].update(tensors=3),
            r"-of-00002\.bin: tensors: a list of names expected, found none",
        ),
        (
            lambda files: files[1]["tensors"].append(files[0]["tensors"][0]),
            r"tensor .* is in .*01-of.* and in .*02-of",
        ),
    ],
)
def test_a_bin_must_list_its_tensors(trip: Trip, change: Callable[[list[Any]], object], message: str) -> None:
    trip.split(checkpoints.save_bin(trip.folder / "source", shards=2))
    trip.edit(lambda manifest: change(manifest["source"]["files"]))
    with pytest.raises(DataError, match=message):
        read_manifest(trip.parts)


def test_a_key_that_stands_twice_is_refused(source: Path, trip: Trip) -> None:
    trip.split(source, 2)
    path = trip.parts / "manifest.json"
    path.write_text(path.read_text().replace('"num_parts"', '"num_parts": 2, "num_parts"', 1))
    with pytest.raises(DataError, match="the key 'num_parts' is duplicated in one JSON object"):
        read_manifest(trip.parts)


def test_no_split_there_is_said(source: Path, trip: Trip, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"load_part: .*there is no such folder; give what task=split wrote"
    ):
        read_manifest(tmp_path / "nowhere", key="load_part: folder")
    with pytest.raises(
        ConfigError, match=r"task\.parts=.*: no manifest\.json there; give what task=split wrote"
    ):
        read_manifest(source)
    trip.split(source, 2)
    (trip.parts / "manifest.json").rename(trip.parts / "manifest.unfinished.json")
    with pytest.raises(ConfigError, match="the split was interrupted, run the same task=split again"):
        read_manifest(trip.parts)
    (trip.parts / "manifest.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match="a JSON object expected"):
        read_manifest(trip.parts)

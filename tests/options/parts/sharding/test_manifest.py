"""manifest.json: read by type, bound to its folder, and refused where it contradicts itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from raising import raises
from trips import Trip

from runner.options.parts.sharding.manifest import read_manifest
from runner_base.errors import Code, ConfigError, DataError


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
    manifest.require_parts_runnable_as_stages()


@pytest.mark.parametrize(
    ("change", "code", "place"),
    [
        (lambda m: m["parts"][0].update(file="../part_0.safetensors"), "damaged", "parts[0]"),
        (lambda m: m["parts"][0].update(partition="x/y"), "damaged", "parts[0].partition"),
        (lambda m: m["source"]["files"][0].update(file="/tmp/x"), "damaged", "source.files"),
        (lambda m: m["companions"][0].update(file=".."), "damaged", "companions"),
        (lambda m: m["headers"][0].update(file="a\\b"), "damaged", "headers"),
        (lambda m: m["headers"][0].update(file="other.header"), "damaged", "headers"),
        (
            lambda m: m["companions"][0].update(file="model.safetensors"),
            "damaged",
            "source.files and companions",
        ),
        (lambda m: m["parts"].pop(), "damaged", "num_parts=2"),
        (lambda m: m["parts"].reverse(), "damaged", "parts[0]"),
        (lambda m: m["parts"][1].update(file="part_0.safetensors"), "damaged", "parts[1]"),
        (lambda m: m["parts"][1].pop("digest"), "damaged", "parts[1]"),
        (lambda m: m["parts"][1].update(bytes=-1), "damaged", "parts[1]"),
        (lambda m: m["parts"][1].update(bytes=True), "damaged", "parts[1]"),
        (lambda m: m["parts"][1].update(layers=[0, 2]), "damaged", "parts[1].layers"),
        (lambda m: m["parts"][1].update(layers=[2, 9]), "damaged", "parts[1].layers"),
        (lambda m: m["parts"][1].update(layers=None), "damaged", "parts:"),
        (lambda m: m["parts"][1].update(layers="all"), "damaged", "parts[1].layers"),
        (lambda m: m.update(embedding=[7]), "damaged", "embedding"),
        (lambda m: m["tied"][0].update(parts=[0, 5]), "damaged", "tied: model.embed_tokens.weight"),
        (lambda m: m.pop("companions"), "damaged", "companions"),
        (lambda m: m.update(source="x"), "damaged", "source"),
        (lambda m: m["source"].update(format="gguf"), "damaged", "source.format"),
        (lambda m: m.update(archive="rar"), "damaged", "archive"),
        (lambda m: m.update(contiguous=1), "damaged", "contiguous"),
        (lambda m: m["totals"].pop("tensors"), "damaged", "totals.tensors"),
        (lambda m: m.update(format_version=9), "unsupported", ""),
        (lambda m: m.update(format="other"), "unsupported", ""),
    ],
)
def test_a_manifest_that_is_not_one_is_refused(
    source: Path, trip: Trip, change: Callable[[dict[str, Any]], object], code: Code, place: str
) -> None:
    trip.split(source, 2)
    trip.edit(change)
    with raises(DataError, code, trip.parts / "manifest.json") as caught:
        read_manifest(trip.parts)
    assert caught.value.reason.startswith(place)


def test_a_digest_of_an_unknown_kind_is_refused(source: Path, trip: Trip) -> None:
    trip.split(source, 2)
    trip.edit(lambda manifest: manifest["parts"][1].update(digest="crc:1"))
    with pytest.raises(DataError) as caught:
        read_manifest(trip.parts)
    assert caught.value.key == str(trip.parts / "manifest.json")
    assert caught.value.reason.startswith("parts[1]: part_1.safetensors: ")


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files[0].pop("tensors"),
        lambda files: files[0].update(tensors=3),
        lambda files: files[1]["tensors"].append(files[0]["tensors"][0]),
    ],
)
def test_a_bin_must_list_its_tensors(trip: Trip, change: Callable[[list[Any]], object]) -> None:
    trip.split(checkpoints.save_bin(trip.folder / "source", shards=2))
    trip.edit(lambda manifest: change(manifest["source"]["files"]))
    with raises(DataError, "damaged", trip.parts / "manifest.json"):
        read_manifest(trip.parts)


def test_a_key_that_stands_twice_is_refused(source: Path, trip: Trip) -> None:
    trip.split(source, 2)
    path = trip.parts / "manifest.json"
    path.write_text(path.read_text().replace('"num_parts"', '"num_parts": 2, "num_parts"', 1))
    with raises(DataError, "damaged", path):
        read_manifest(trip.parts)


def test_no_split_there_is_said(source: Path, trip: Trip, tmp_path: Path) -> None:
    with raises(ConfigError, "not_found", "load_part: folder"):
        read_manifest(tmp_path / "nowhere", key="load_part: folder")
    with raises(ConfigError, "not_found", "task.parts"):
        read_manifest(source)
    trip.split(source, 2)
    (trip.parts / "manifest.json").rename(trip.parts / "manifest.unfinished.json")
    with raises(ConfigError, "not_found", "task.parts"):
        read_manifest(trip.parts)
    (trip.parts / "manifest.json").write_text(json.dumps([1]))
    with raises(DataError, "damaged", trip.parts / "manifest.json"):
        read_manifest(trip.parts)

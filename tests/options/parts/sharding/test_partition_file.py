"""partition_N.json: references that have lost their parts, and the numbers of small models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from raising import raises
from safetensors.torch import load_file, save_file
from trips import Trip, contents

from runner.options.parts.sharding import partition_file
from runner.options.parts.sharding.partition_file import TensorReference, read_partition
from runner_base.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save(tmp_path_factory.mktemp("source") / "llama")


def test_references_without_their_parts_are_refused(model: Path, trip: Trip) -> None:
    trip.split(model)
    partition = read_partition(trip.parts / "partition_0.json")
    assert partition.form == "reference"
    assert all(isinstance(layer.parameters, TensorReference) for layer in partition.layers)
    for path in (*trip.parts.glob("*.safetensors"), trip.parts / "manifest.json"):
        path.unlink()
    with raises(DataError, "not_found", trip.parts / "partition_0.json"):
        trip.merge()


# ------------------------------------------------------------------------------------------ writing


@pytest.mark.sampled(1)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_split_writes_the_numbers_of_a_small_model(trip: Trip, dtype: str) -> None:
    source = checkpoints.save(trip.folder / "source", dtype=dtype)
    trip.split(source, inline_parameters=True)
    before = load_file(source / "model.safetensors")
    seen = {}
    for number in range(2):
        values = json.loads((trip.parts / f"partition_{number}.json").read_text())
        assert (values["part_id"], values["parameters_format"]) == (number, "inline")
        assert values["total_params"] == sum(len(layer["parameters"]) for layer in values["layers"])
        for layer in values["layers"]:
            assert layer["parameters"] == before[layer["name"]].double().flatten().tolist()
            assert layer["shape"] == list(before[layer["name"]].shape)
            seen[layer["name"]] = layer
    assert set(seen) == set(before)
    assert seen["model.norm.weight"]["layer_type"] == "norm"
    assert trip.verify(source=source).problems == []
    trip.merge()
    assert contents(trip.merged) == contents(source)


def test_verify_compares_the_numbers_with_the_tensors(model: Path, trip: Trip) -> None:
    trip.split(model, inline_parameters=True)

    def change(values: dict[str, Any]) -> None:
        values["layers"][-1]["parameters"][3] += 0.5

    trip.edit(change, "partition_1.json")
    name = json.loads((trip.parts / "partition_1.json").read_text())["layers"][-1]["name"]
    problems = trip.verify().problems
    found = re.compile(rf"partition_1\.json: 1 of the \d+ values of tensor {re.escape(name)} differ")
    assert any(map(found.match, problems)), problems


def test_what_cannot_be_inline_is_refused(trip: Trip) -> None:
    with raises(ConfigError, "too_large", "task.inline_parameters"):
        partition_file.check_inline_size(1_235_814_400)
    partition_file.check_inline_size(1_000_000)
    source = trip.folder / "source"
    source.mkdir()
    (source / "config.json").write_text('{"n_layer": 2}')
    tensors = {"h.0.w": torch.ones(3), "h.1.w": torch.tensor([1.0, 2.0, float("nan"), float("inf")])}
    save_file(tensors, source / "model.safetensors")
    with raises(DataError, "unsupported", source / "model.safetensors"):
        trip.split(source, inline_parameters=True)
    assert not (trip.parts / "manifest.json").exists()
    assert not list(trip.parts.glob("*.tmp"))
    assert not (trip.parts / "partition_1.json").exists()
    big = trip.folder / "big"
    big.mkdir()
    (big / "config.json").write_text('{"n_layer": 2}')
    save_file({f"h.{number}.w": torch.ones(600, 1000) for number in range(2)}, big / "model.safetensors")
    with raises(ConfigError, "too_large", "task.inline_parameters"):
        trip.split(big, inline_parameters=True)


# ---------------------------------------------------------------------------------------------- the
# numbers


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2), ("BOOL", torch.bool)],
)
def test_all_numbers_of_one_byte_are_torchs(dtype: str, kind: torch.dtype) -> None:
    codes = torch.arange(2 if kind is torch.bool else 256, dtype=torch.uint8)
    expected = codes.view(kind).float().numpy()
    assert np.array_equal(
        partition_file.decode_tensor_values(dtype, codes.numpy().tobytes()).astype("<f4"),
        expected,
        equal_nan=True,
    )

"""Splits in the old form: their partitions are read and merged, and bad ones are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from raising import raises
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trips import Trip

from runner.options.parts.json_splits import encode_numbers, get_safetensors_dtype_name, read_json_partitions
from runner.options.parts.sharding import partition_file
from runner.options.parts.sharding.partition_file import InlineNumbers, read_partition
from runner_base.dtypes import Dtype
from runner_base.errors import Code, ConfigError, DataError
from runner_engine.checkpoints import file_io


def write_old(
    folder: Path, tensors: dict[str, torch.Tensor], num_parts: int = 2, indent: int | None = None
) -> Path:
    """Write partitions as the old command did, with the dtype under layer_type, and the config
    beside them."""
    folder.mkdir(parents=True)
    names = list(tensors)
    for part in range(num_parts):
        held = names[len(names) * part // num_parts : len(names) * (part + 1) // num_parts]
        layers = [
            {
                "name": name,
                "layer_type": str(tensors[name].dtype),
                "shape": list(tensors[name].shape),
                "parameters": tensors[name].float().flatten().tolist(),
            }
            for name in held
        ]
        total = sum(tensors[name].numel() for name in held)
        values = {"part_id": part, "layers": layers, "total_params": total}
        (folder / f"partition_{part}.json").write_text(json.dumps(values, indent=indent))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save(tmp_path_factory.mktemp("source") / "llama")


@pytest.mark.parametrize("indent", [None, 2])
def test_old_partitions_become_a_model_that_loads(model: Path, trip: Trip, indent: int | None) -> None:
    before = load_file(model / "model.safetensors")
    old = write_old(trip.folder / "old", before, indent=indent)
    (old / "config.json").write_bytes((model / "config.json").read_bytes())
    (old / "tokenizer.json").write_text("{}")
    (old / "leftover.bin").write_text("no part of it")
    result = trip.merge(old)
    assert {path.name for path in trip.merged.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }
    checkpoints.assert_same(before, load_file(trip.merged / "model.safetensors"))
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        logits = [
            AutoModelForCausalLM.from_pretrained(folder)(tokens).logits for folder in (model, trip.merged)
        ]
    assert torch.equal(*logits)
    assert (result.metrics["num_parts"], result.metrics["tensors"]) == (2, len(before))
    assert trip.merge(old).notes == ["all files existed already: nothing was written"]


def test_dtypes_that_the_old_form_named(trip: Trip) -> None:
    torch.manual_seed(0)
    kinds = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8)
    tensors = {f"w{number}": (torch.randn(5, 3) * 9).to(kind) for number, kind in enumerate(kinds)}
    old = write_old(trip.folder / "old", tensors, num_parts=1)
    trip.merge(old, into=trip.folder / "plain")
    plain = load_file(trip.folder / "plain" / "model.safetensors")
    checkpoints.assert_same({name: tensor.float() for name, tensor in tensors.items()}, plain)
    same = trip.merge(old, into=trip.folder / "same", dtype=Dtype.auto)
    assert same.notes == []
    stored = load_file(trip.folder / "same" / "model.safetensors")
    tensors["w3"] = tensors["w3"].float().double()
    checkpoints.assert_same(tensors, stored)
    half = trip.merge(old, into=trip.folder / "half", dtype=Dtype.bfloat16)
    checkpoints.assert_same(
        {name: tensor.float().bfloat16() for name, tensor in tensors.items()},
        load_file(trip.folder / "half" / "model.safetensors"),
    )
    assert half.notes[0].endswith("weights were rounded, because their dtype cannot represent them exactly")


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1000])
def test_pieces_may_end_anywhere(trip: Trip, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    tensors = {
        'a "parameters": [ in a name': torch.randn(4, 3),
        "none": torch.zeros(0, 2),
        "one": torch.tensor(-1.5e-30),
        "last": torch.tensor([0.1, 3e38, -0.0]),
    }
    old = write_old(trip.folder / "old", tensors, indent=1)
    monkeypatch.setattr(file_io, "CHUNK_BYTES", chunk)
    monkeypatch.setattr("runner.options.parts.sharding.partition_file.OVERLAP_BYTES", 40)
    partitions = read_json_partitions(old)
    found = {layer.name: (one, layer) for one in partitions for layer in one.layers}
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert isinstance(found[name][1].parameters, InlineNumbers)
        values = np.concatenate([*partition_file.iterate_json_weight_chunks(*found[name]), np.zeros(0)])
        assert values.tolist() == tensor.double().flatten().tolist()


@pytest.mark.thorough
def test_memory_does_not_grow_with_the_numbers(trip: Trip) -> None:
    import tracemalloc

    old = write_old(trip.folder / "old", {"w": torch.randn(1_000_000)}, num_parts=1)
    assert (old / "partition_0.json").stat().st_size > 20_000_000
    tracemalloc.start()
    read_partition(old / "partition_0.json")
    _, read_peak = tracemalloc.get_traced_memory()
    trip.merge(old)
    _, merge_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read_peak < 4 * file_io.CHUNK_BYTES
    assert merge_peak < 12 * file_io.CHUNK_BYTES


def edit(old: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = old / "partition_0.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "code", "place"),
    [
        (lambda v: v["layers"][0]["parameters"].__setitem__(1, float("nan")), "damaged", "parameters of a: "),
        (lambda v: v["layers"][0]["parameters"].__setitem__(1, None), "damaged", "parameters of a: "),
        (lambda v: v["layers"][0]["parameters"].__setitem__(1, "1"), "damaged", "parameters of a: "),
        (lambda v: v["layers"][0].update(parameters=[[1], [2]]), "damaged", "parameters: "),
        (lambda v: v["layers"][0]["parameters"].append(1), "damaged", "parameters of a: "),
        (lambda v: v["layers"][0]["parameters"].pop(), "damaged", "parameters of a: "),
        (lambda v: v["layers"][0].update(parameters=[]), "damaged", "parameters of a: "),
        (lambda v: v["layers"][0].update(parameters="x"), "damaged", "layers[0] (a).parameters: "),
        (lambda v: v["layers"][0].update(shape=[2, -2]), "damaged", "layers[0] (a).shape: "),
        (lambda v: v["layers"][0].update(name="b"), "damaged", "layers: b "),
        (lambda v: v["layers"][0]["parameters"].__setitem__(0, 1e300), "bad_value", "a: "),
        (lambda v: v.update(total_params=9), "damaged", "total_params: "),
        (lambda v: v.update(part_id=3), "damaged", "part_id: "),
        (lambda v: v.update(parameters_format="reference"), "damaged", "parameters_format: "),
        (lambda v: v.pop("layers"), "damaged", "layers: "),
    ],
)
def test_bad_partitions_are_named(
    trip: Trip, change: Callable[[dict[str, Any]], object], code: Code, place: str
) -> None:
    old = write_old(
        trip.folder / "old",
        {"a": torch.ones(2, 2), "b": torch.ones(4), "c": torch.ones(1), "d": torch.ones(1)},
    )
    edit(old, change)
    with pytest.raises(DataError) as caught:
        trip.merge(old)
    assert caught.value.code == code
    assert str(caught.value).startswith(f"{old / 'partition_0.json'}: {place}")
    assert not list(trip.merged.glob("*")), "nothing half-written"


def test_text_that_is_no_partition(trip: Trip) -> None:
    old = write_old(trip.folder / "old", {"a": torch.ones(2), "b": torch.ones(2)})
    text = (old / "partition_0.json").read_text()
    (old / "partition_0.json").write_text(text[: text.index("1.0") + 5])
    with raises(DataError, "damaged", old / "partition_0.json"):
        trip.merge(old)
    (old / "partition_0.json").write_text(text.replace('"part_id"', '"part_id": 1, "part_id"'))
    with raises(DataError, "damaged", old / "partition_0.json"):
        trip.merge(old)
    for odd in ("1,,2", "1,-,2", "1 2", "1,2,", ",1"):
        (old / "partition_0.json").write_text(text.replace("[1.0, 1.0]", f"[{odd}]"))
        with raises(DataError, "damaged", f"{old / 'partition_0.json'}: parameters of a"):
            trip.merge(old)
    (old / "partition_0.json").unlink()
    (old / "partition_2.json").write_text(text)
    with raises(ConfigError, "not_found", "task.parts"):
        trip.merge(old)
    (old / "partition_0.json").write_text(text)
    with raises(DataError, "damaged", old / "partition_2.json"):
        trip.merge(old)
    (old / "partition_2.json").rename(old / "partition_3.json")
    with raises(DataError, "damaged", old):
        trip.merge(old)


@pytest.mark.parametrize(("dtype", "kind"), [("BF16", torch.bfloat16), ("F16", torch.float16)])
def test_numbers_of_two_bytes_round_as_torch_does(dtype: str, kind: torch.dtype) -> None:
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    every = patterns.view(kind).float()
    assert np.array_equal(
        partition_file.decode_tensor_values(dtype, patterns.numpy().tobytes()), every.numpy(), equal_nan=True
    )
    finite = every[every.isfinite()]
    torch.manual_seed(0)
    # and what lies between two of them
    between = finite + torch.rand(len(finite)) * finite.abs() * 2**-8
    ties = (finite[:-1].double() + finite[1:].double()).div(2).float()
    for values in (finite, between, ties):
        values = values[values.abs() < 6e4]
        data, _ = encode_numbers(values.double().numpy(), dtype, "here")
        assert data == checkpoints.as_bytes(values.to(kind))
    assert encode_numbers(finite.double().numpy(), dtype, "here")[1] == 0
    with raises(DataError, "bad_value", "here"):
        encode_numbers(np.array([1e39]), dtype, "here")


def test_dtypes_that_hold_no_such_numbers() -> None:
    with raises(DataError, "bad_value", "here"):
        encode_numbers(np.array([1.5]), "I8", "here")
    with raises(ConfigError, "unsupported", "here"):
        encode_numbers(np.array([1.5]), "F8_E4M3", "here")
    expected = {
        "torch.bfloat16": "BF16",
        "float32": "F32",
        "F16": "F16",
        "torch.int8": "I8",
        "attention": None,
    }
    assert {word: get_safetensors_dtype_name(word) for word in expected} == expected

"""task=verify: says that all is right, or everything that is wrong, with file, tensor, expected and
found."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from raising import raises
from safetensors.torch import load_file, save_file
from trips import Trip, flip_last_byte

from runner.options.parts.keys import ChecksumAlgorithm, SplitStrategy, VerifyLevel
from runner_base.errors import ConfigError, DataError

pytestmark = pytest.mark.slow

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    return {
        "tied": checkpoints.save(root / "tied", tie_word_embeddings=True),
        "shards": checkpoints.save(
            root / "shards", dtype="bfloat16", shard="20KB", tie_word_embeddings=False
        ),
        "bin": checkpoints.save_bin(root / "bin", shards=2),
    }


@pytest.mark.sampled(2)
@pytest.mark.parametrize("level", VerifyLevel)
@pytest.mark.parametrize("name", ["tied", "shards", "bin"])
def test_what_split_wrote_is_right(
    sources: dict[str, Path], trip: Trip, name: str, level: VerifyLevel
) -> None:
    trip.split(sources[name], 2)
    result = trip.verify(source=sources[name], level=level)
    assert result.problems == []
    assert result.found_problems_message is None
    assert result.metrics["problems"] == 0
    assert [row["status"] for row in result.rows] == ["ok"] * 6
    assert [row["file"] for row in result.rows] == [
        "part_0.safetensors",
        "part_1.safetensors",
        "model_files/",
        "source_headers/",
        "manifest.json",
        f"source {name}",
    ]
    stored = sum((trip.parts / f"part_{number}.safetensors").stat().st_size for number in range(2))
    original = sum(tensor.nbytes for tensor in checkpoints.load_all(sources[name]).values())
    expected = stored + original if level is VerifyLevel.full else 0
    assert result.metrics["read_mib"] == pytest.approx(expected / 2**20)
    measured = {row["file"] for row in result.rows if "mb_per_s" in row}
    parts = {f"part_{number}.safetensors" for number in range(2)}
    assert measured == (parts | {f"source {name}"} if level is VerifyLevel.full else set())


@pytest.mark.parametrize(
    "keys", [{"checksums": ChecksumAlgorithm.sha256}, {"strategy": SplitStrategy.by_type, "num_parts": None}]
)
def test_other_digests_and_parts_by_type(sources: dict[str, Path], trip: Trip, keys: dict[str, Any]) -> None:
    trip.split(sources["tied"], **keys)
    assert trip.verify(source=sources["tied"]).problems == []


def one(result_problems: list[str], *words: str) -> None:
    """Assert that one of the problems has all these words."""
    assert any(all(word in problem for word in words) for problem in result_problems), result_problems


def test_everything_that_is_wrong_is_listed(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["shards"], 3)
    flip_last_byte(trip.parts / "part_0.safetensors")
    (trip.parts / "part_1.safetensors").unlink()
    flip_last_byte(trip.parts / "model_files" / "config.json")
    (trip.parts / "partition_2.json").write_text("{}")
    result = trip.verify()
    last = list(json.loads((trip.parts / "partition_0.json").read_text())["layers"])[-1]["name"]
    one(
        result.problems,
        f"part_0.safetensors: tensor {last} has digest xxh3_128:",
        "but xxh3_128:",
        "expected",
    )
    one(result.problems, "part_0.safetensors: xxh3_128:", "expected")
    one(result.problems, "part_1.safetensors: missing")
    one(result.problems, "model_files/config.json: sha256:", "expected")
    one(result.problems, "partition_2.json: sha256", "expected")
    one(result.problems, "partition_2.json: layers: a list expected, found None")
    assert len(result.problems) == 6, "what follows from these is not said again"
    assert result.metrics["problems"] == 6
    assert [row["status"] for row in result.rows] == [
        "2 problems",
        "1 problem",
        "2 problems",
        "1 problem",
        "ok",
        "ok",
    ]
    assert str(result.found_problems_message).startswith("6 problems found:\n  ")


def test_quick_reads_no_weights(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["tied"], 2)
    flip_last_byte(trip.parts / "part_0.safetensors")
    assert trip.verify(level=VerifyLevel.quick).problems == []
    assert len(trip.verify().problems) == 2
    with (trip.parts / "part_0.safetensors").open("ab") as file:
        file.write(b"more")
    (found, again) = trip.verify(level=VerifyLevel.quick).problems
    assert found.startswith("part_0.safetensors: ")
    assert ": 4 bytes too many" in again


def test_swapped_parts(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["shards"], 2)
    first, second = (trip.parts / f"part_{number}.safetensors" for number in range(2))
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])
    result = trip.verify()
    one(result.problems, f"part_1.safetensors: tensor {EMBEDDING} is not listed in partition_1.json")
    one(
        result.problems, f"part_0.safetensors: tensor {EMBEDDING} is missing, although partition_0.json lists"
    )


def test_a_truncated_part(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["tied"], 2)
    path = trip.parts / "part_0.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    problems = trip.verify().problems
    one(problems, f"part_0.safetensors: {size} bytes expected, {size - 100} found")
    one(problems, "truncated: tensor", f"ends at byte {size}, but the file ends at {size - 100}")
    assert len(problems) == 2


def test_a_header_that_lies(sources: dict[str, Path], trip: Trip) -> None:
    """Another dtype of the same size: every byte of the tensors is right, and the model is not."""
    trip.split(sources["tied"], 2)
    path = trip.parts / "part_0.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))
    problems = trip.verify(level=VerifyLevel.quick).problems
    one(problems, "part_0.safetensors: tensor ", "has dtype I32, but partition_0.json lists F32")
    one(problems, " is I32 [", "but F32 [", "is expected by model.safetensors.header")


def test_tied_tensors_must_be_alike_in_both_places(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["tied"], 2)
    trip.forge(1, lambda tensors: tensors[EMBEDDING][0].add_(1))
    (problem,) = trip.verify().problems
    assert problem.startswith(f"part_1.safetensors: tensor {EMBEDDING} has content xxh3_128:")
    assert "but its copy in part_0.safetensors has xxh3_128:" in problem
    one(
        trip.verify(source=sources["tied"]).problems,
        f"part_1.safetensors: tensor {EMBEDDING} has xxh3_128:",
        "but the source has",
    )


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.norm.weight"), "tensor model.norm.weight is in none of the parts"),
        (lambda t: t.pop("model.norm.weight"), "manifest.json: totals.tensors: "),
        (lambda t: t.update(extra=torch.ones(1)), "part_1.safetensors: tensor extra is not in the source"),
        (lambda t: t.pop(EMBEDDING), f"tensor {EMBEDDING} is in parts [0], but belongs to parts [0, 1]"),
        (
            lambda t: t.update({"model.layers.0.mlp.up_proj.weight": torch.ones(48, 32)}),
            "tensor model.layers.0.mlp.up_proj.weight is in parts [0, 1], but belongs to parts [0]",
        ),
        (
            lambda t: t.update({"model.norm.weight": t["model.norm.weight"].half()}),
            "tensor model.norm.weight is F16 [32], but F32 [32] is expected by model.safetensors.header",
        ),
    ],
)
def test_each_tensor_must_be_there_once(
    sources: dict[str, Path], trip: Trip, change: Callable[[dict[str, torch.Tensor]], object], words: str
) -> None:
    trip.split(sources["tied"], 2)
    trip.forge(1, change)
    one(trip.verify(level=VerifyLevel.quick).problems, words)


def test_another_source_is_told_apart(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["tied"], 2)
    other = trip.folder / "other"
    other.mkdir()
    tensors = load_file(sources["tied"] / "model.safetensors")
    tensors["model.norm.weight"][3] += 1
    tensors["model.layers.1.input_layernorm.weight"] = torch.ones(31)
    del tensors["model.layers.2.input_layernorm.weight"]
    save_file(tensors | {"new": torch.ones(2)}, other / "model.safetensors", metadata={"format": "pt"})
    (other / "config.json").write_text("{}")
    problems = trip.verify(source=other).problems
    one(
        problems, "part_1.safetensors: tensor model.norm.weight has xxh3_128:", "but the source has xxh3_128:"
    )
    one(
        problems,
        "tensor model.layers.1.input_layernorm.weight is F32 [32], but F32 [31] is expected as in the source",
    )
    one(problems, "tensor model.layers.2.input_layernorm.weight is not in the source")
    one(problems, "tensor new of the source is in none of the parts")
    digest = hashlib.sha256(b"{}").hexdigest()
    one(problems, f"config.json: the source file has digest sha256:{digest}, but the manifest lists sha256:")
    with pytest.raises(ConfigError, match=r"task\.source=.*nowhere: model path does not exist"):
        trip.verify(source=trip.folder / "nowhere")


def test_what_is_no_split_is_refused(sources: dict[str, Path], trip: Trip) -> None:
    trip.split(sources["tied"], 2)
    trip.edit(lambda manifest: manifest.update(format_version=1))
    with raises(DataError, "unsupported", trip.parts / "manifest.json"):
        trip.verify()


@pytest.mark.thorough
def test_exit_codes_and_never_from_the_ledger(
    sources: dict[str, Path], trip: Trip, runner: Callable[..., Any]
) -> None:
    trip.split(sources["tied"], 2)
    command = ("task=verify", f"task.parts={trip.parts}", f"task.source={sources['tied']}", "tracking=none")
    right = runner(*command)
    assert right.code == 0, right.err
    assert "part_0.safetensors" in right.out
    assert "recorded earlier" not in runner(*command).out
    stat = (trip.parts / "part_0.safetensors").stat()
    flip_last_byte(trip.parts / "part_0.safetensors")
    os.utime(trip.parts / "part_0.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    wrong = runner(*command)
    assert wrong.code == 1
    assert wrong.out.count("part_0.safetensors: xxh3_128:") == 1
    assert wrong.err == "error: 3 problems found\n", "each is in the table"
    in_json = runner(*command, "print=json")
    assert "error: 3 problems found:\n  part_0.safetensors: xxh3_128:" in in_json.err
    values = in_json.json()
    assert (values["status"], values["metrics"]["problems"]) == ("FAILED", 3)
    grid = runner(*command[:-2], "task.level=quick,full", "tracking=none", "-m")
    assert grid.code == 1
    assert "2 problems found" in grid.out + grid.err

"""Whatever the source is, the parts hold its tensors bit for bit, and whole layers of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from checkpoints import FAMILIES, LAYERS, assert_same, load_all
from safetensors import safe_open
from tasking import work
from tiny_gguf import save_original, write
from transformers import LlamaForCausalLM

from runner.config.root import RunnerConfig
from runner.options.parts.keys import ChecksumAlgorithm, SplitConfig, SplitStrategy
from runner.options.parts.tasks import split
from runner.records.jobs import Job, Recorder
from runner_base.result import Result
from runner_engine.settings.model import LocalModelConfig

Split = Callable[..., Result]


@pytest.fixture
def run_split(tmp_path: Path, make_config: Callable[..., RunnerConfig]) -> Split:
    """Return a function that splits a folder into tmp_path/parts."""

    def run(folder: Path, **keys: Any) -> Result:
        task = SplitConfig(output_dir=str(tmp_path / "parts"), **keys)
        config = make_config(model=LocalModelConfig(name=str(folder)), task=task)
        (tmp_path / "job").mkdir(exist_ok=True)
        return work(split, config, Recorder(Job("split-test", tmp_path / "job")))

    return run


def check(folder: Path, parts: Path) -> dict[str, Any]:
    """Hold the parts against the source, and return the manifest."""
    manifest: dict[str, Any] = json.loads((parts / "manifest.json").read_text())
    before = load_all(folder)
    assert_same(before, load_all(parts))
    homes: dict[str, list[int]] = {}
    for entry in manifest["parts"]:
        with safe_open(parts / entry["file"], "pt") as opened:
            for name in list(opened.keys()):
                homes.setdefault(name, []).append(entry["part_id"])
    tied = {entry["tensor"]: entry["parts"] for entry in manifest["tied"]}
    for name, where in homes.items():
        assert where == tied.get(name, where[:1]), name
    for entry in manifest["parts"]:
        if entry["layers"] is None:
            continue
        first, last = entry["layers"]
        for number in range(first, last + 1):
            stem = f"{manifest['layers']['prefix']}.{number}."
            assert {name for name in before if name.startswith(stem)} <= {
                name for name, where in homes.items() if entry["part_id"] in where
            }
    assert manifest["totals"]["tensors"] == len(before)
    return manifest


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_every_family_are_found_by_their_names(
    family: str, tmp_path: Path, run_split: Split
) -> None:
    source = checkpoints.save(tmp_path / "model", family)
    run_split(source, num_parts=LAYERS)
    manifest = check(source, tmp_path / "parts")
    assert manifest["layers"]["count"] == LAYERS
    assert [entry["layers"] for entry in manifest["parts"]] == [[number, number] for number in range(LAYERS)]
    names = list(load_all(source))
    assert all(name.startswith(f"{manifest['layers']['prefix']}.") for name in names if ".1." in name)
    inside = [Counter(name.split(".")[len(manifest["layers"]["prefix"].split(".")) + 1] for name in names
                      if name.startswith(f"{manifest['layers']['prefix']}.{number}.")) for number in range(LAYERS)]  # fmt: skip
    assert inside[0] == inside[1] == inside[2], "each layer has the same modules"
    assert (manifest["embedding"], manifest["norm"], manifest["head"]) == ([0], [LAYERS - 1], [LAYERS - 1])
    config = json.loads((source / "config.json").read_text())
    has_head = any("lm_head" in name or "embed_out" in name for name in names)
    assert bool(manifest["tied"]) != has_head, "either a head of its own, or the embedding once more"
    assert manifest["source"]["format"] == "safetensors"
    assert config["model_type"] == family


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shard", ["1GB", "30KB"])
def test_dtypes_and_shards(dtype: str, shard: str, tmp_path: Path, run_split: Split) -> None:
    source = checkpoints.save(tmp_path / "model", dtype=dtype, shard=shard)
    assert (len([*source.glob("*.safetensors")]) > 1) == (shard == "30KB")
    run_split(source)
    assert len(check(source, tmp_path / "parts")["parts"]) == 2


@pytest.mark.parametrize("kind", ["gptq", "int8", "fp8"])
def test_packed_weights(kind: str, tmp_path: Path, run_split: Split) -> None:
    source = checkpoints.save_packed(tmp_path / "model", kind)
    run_split(source, num_parts=3)
    check(source, tmp_path / "parts")
    partition = json.loads((tmp_path / "parts" / "partition_0.json").read_text())
    kinds = {layer["layer_type"] for layer in partition["layers"]}
    assert kinds == {"embedding", "attention", "mlp", "norm"}


def test_a_checkpoint_that_bitsandbytes_has_packed(tmp_path: Path, run_split: Split) -> None:
    source = checkpoints.save_bitsandbytes(tmp_path)
    names = list(load_all(source))
    assert any("quant_state" in name for name in names)
    run_split(source, num_parts=3)
    manifest = check(source, tmp_path / "parts")
    assert manifest["layers"] == {"prefix": "model.layers", "count": LAYERS}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_bin_files(family: str, tied: bool, shards: int, tmp_path: Path, run_split: Split) -> None:
    source = checkpoints.save_bin(tmp_path / "model", family, shards, tie_word_embeddings=tied)
    result = run_split(source)
    manifest = check(source, tmp_path / "parts")
    assert "lm_head.weight" in load_all(tmp_path / "parts"), (
        "each name is there, also one that shares its bytes"
    )
    assert manifest["source"]["format"] == "bin"
    assert manifest["headers"] == []
    assert len(manifest["source"]["files"]) == shards
    named = [name for entry in manifest["source"]["files"] for name in entry["tensors"]]
    assert sorted(named) == sorted(load_all(source))
    assert not (tmp_path / "parts" / "source_headers").exists()
    assert not [entry for entry in manifest["companions"] if "index" in entry["file"]]
    # two names of one storage; in two files it is written twice anyway
    shared = tied and shards == 1
    assert any("share storage with another tensor" in note for note in result.notes) == shared


def test_a_bin_with_tensors_in_no_plain_order(tmp_path: Path, run_split: Split) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"n_layer": 2}')
    torch.manual_seed(0)
    fused = torch.randn(300, 40)
    state = {f"h.{n}.attn.weight": fused[150 * n : 150 * (n + 1)].t() for n in range(2)} | {
        "wte.weight": fused[::7]
    }
    torch.save(state, folder / "pytorch_model.bin")
    run_split(folder)
    check(folder, tmp_path / "parts")


@pytest.mark.parametrize("strategy", SplitStrategy)
def test_every_strategy_on_disk(strategy: SplitStrategy, tmp_path: Path, run_split: Split) -> None:
    source = checkpoints.save(tmp_path / "model", "gemma")
    own: dict[SplitStrategy, dict[str, Any]] = {
        SplitStrategy.ratios: {"ratios": [0.2, 0.8]},
        SplitStrategy.ranges: {"ranges": ["0", "1-2"]},
    }
    keys = own.get(strategy, {})
    run_split(source, strategy=strategy, checksums=ChecksumAlgorithm.sha256, **keys)
    manifest = check(source, tmp_path / "parts")
    assert manifest["strategy"] == {"name": strategy.value, **keys}
    assert manifest["contiguous"] is (strategy is not SplitStrategy.by_type)
    if strategy is SplitStrategy.by_type:
        assert [entry["holds"] for entry in manifest["parts"]] == [
            ["embedding", "tied head"],
            ["attention"],
            ["mlp"],
            ["norm"],
        ]
        assert manifest["tied"] == [{"tensor": "model.embed_tokens.weight", "parts": [0], "as": "head"}]
        assert (manifest["embedding"], manifest["head"], manifest["norm"]) == ([0], [0], [3])


def test_a_gguf_file_is_refused(runner: Callable[..., Any], tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(save_original(tmp_path / "original"))
    file = write(tmp_path / "F32.gguf", model, "F32")
    done = runner("model=local", f"model.name={file}", "task=split", "task.output_dir=parts", "tracking=none")
    assert done.code == 2
    assert "task=split reads safetensors and .bin, not .gguf files" in done.err

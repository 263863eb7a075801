"""Split, verified, merged: bit-identical, tensor for tensor and dtype for dtype, whatever the
source is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from checkpoints import FAMILIES, LAYERS, assert_same, load_all
from transformers import AutoModelForCausalLM
from trips import Trip, contents

from runner.options.parts.keys import SplitStrategy


def go_round(trip: Trip, source: Path, num_parts: int | None = 2, **keys: Any) -> None:
    """Split, verify against the source, merge; compare as libraries read it, and byte for byte
    where it can be."""
    trip.split(source, num_parts, **keys)
    assert trip.verify(source=source).problems == []
    trip.merge()
    before = load_all(source)
    assert before
    assert_same(before, load_all(trip.merged))
    if not list(source.glob("*.bin")):
        assert contents(trip.merged) == contents(source)


def logits(folder: Path) -> torch.Tensor:
    """What a checkpoint answers, loaded by transformers with nothing missing."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, loading = loaded
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(12).reshape(2, 6)).logits
    return found


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_families(trip: Trip, family: str) -> None:
    source = checkpoints.save(trip.folder / "source", family)
    go_round(trip, source, LAYERS)
    assert torch.equal(logits(source), logits(trip.merged))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_safetensors(trip: Trip, tied: bool, dtype: str, shard: str) -> None:
    source = checkpoints.save(trip.folder / "source", dtype=dtype, shard=shard, tie_word_embeddings=tied)
    assert (len(list(source.glob("*.safetensors"))) > 1) == (shard == "20KB")
    go_round(trip, source)


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_bin(trip: Trip, family: str, shards: int, tied: bool) -> None:
    source = checkpoints.save_bin(trip.folder / "source", family, shards, tie_word_embeddings=tied)
    go_round(trip, source)
    assert len(list(trip.merged.glob("*.safetensors"))) == shards
    index = trip.merged / "model.safetensors.index.json"
    assert index.exists() == (shards > 1)
    if shards > 1:
        weight_map = json.loads(index.read_text())["weight_map"]
        for name, file in weight_map.items():
            assert name in torch.load(
                source / f"pytorch_{file.replace('safetensors', 'bin')}", weights_only=True
            )
    assert not list(trip.merged.glob("*.bin*"))
    assert torch.equal(logits(source), logits(trip.merged))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8])
def test_bin_of_other_dtypes(trip: Trip, dtype: torch.dtype) -> None:
    source = trip.folder / "source"
    source.mkdir()
    (source / "config.json").write_text('{"n_layer": 2}')
    torch.manual_seed(0)
    fused = (torch.randn(6, 8) * 4).to(dtype)
    state = {f"h.{number}.w": fused[3 * number : 3 * number + 3] for number in range(2)}
    torch.save(
        state | {"wte.weight": torch.randn(5, 3), "h.1.turned": fused.t()}, source / "pytorch_model.bin"
    )
    go_round(trip, source)


@pytest.mark.parametrize("kind", ["gptq", "int8", "fp8"])
def test_packed_weights(trip: Trip, kind: str) -> None:
    go_round(trip, checkpoints.save_packed(trip.folder / "source", kind), 3)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_checkpoint_that_bitsandbytes_has_packed(trip: Trip, kind: str) -> None:
    source = checkpoints.save_bitsandbytes(trip.folder, kind)
    kinds = {tensor.dtype for tensor in load_all(source).values()}
    assert (torch.uint8 if kind == "nf4" else torch.int8) in kinds
    go_round(trip, source, 3)
    assert torch.equal(logits(source), logits(trip.merged))


@pytest.mark.parametrize("strategy", SplitStrategy)
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_every_strategy(trip: Trip, strategy: SplitStrategy, form: str) -> None:
    folder = trip.folder / "source"
    source = (
        checkpoints.save(folder, "gemma") if form == "safetensors" else checkpoints.save_bin(folder, "gemma")
    )
    own: dict[SplitStrategy, dict[str, Any]] = {
        SplitStrategy.ratios: {"ratios": [0.2, 0.8]},
        SplitStrategy.ranges: {"ranges": ["0", "1-2"]},
    }
    keys = own.get(strategy, {})
    go_round(trip, source, None, strategy=strategy, **keys)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_through_an_archive(trip: Trip, family: str) -> None:
    source = checkpoints.save(trip.folder / "source", family, shard="30KB")
    trip.split(source)
    trip.pack()
    trip.merge(trip.packed)
    assert contents(trip.merged) == contents(source)

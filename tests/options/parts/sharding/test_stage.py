"""Stages against the unsplit model: the same logits and tokens, prefill and token by token, in one
and more processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises
from stages import FAMILIES, LAYERS, chained, save_family, split_into, whole

import runner
from runner_base.errors import ConfigError, DataError

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

EQUAL = 1e-5
IN_PROCESSES = ("llama", "llama tied", "qwen2", "qwen3", "mistral", "gemma", "gpt2", "gpt2 untied")


@pytest.fixture(scope="module")
def parts_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that saves a family and splits it; once each."""
    models: dict[str, Path] = {}
    splits: dict[tuple[str, int], Path] = {}

    def split(family: str, num_parts: int) -> tuple[Path, Path]:
        if family not in models:
            models[family] = save_family(tmp_path_factory.mktemp("model"), family)
        if (family, num_parts) not in splits:
            parts = tmp_path_factory.mktemp("split") / "parts"
            splits[family, num_parts] = split_into(models[family], parts, num_parts)
        return models[family], splits[family, num_parts]

    return split


@pytest.mark.sampled(2)
@pytest.mark.parametrize("num_parts", [1, 2, LAYERS])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_stages_equal_the_whole_model(parts_of: Any, family: str, num_parts: int) -> None:
    model, parts = parts_of(family, num_parts)
    stages = [runner.load_part(parts, number, dtype="float32") for number in range(num_parts)]
    assert [stage.is_first for stage in stages] == [True] + [False] * (num_parts - 1)
    assert sum(len(stage.layers) for stage in stages) == LAYERS
    logits, tokens = whole(model)
    found, same = chained(stages)
    assert (found - logits).abs().max() <= EQUAL
    assert torch.equal(same, tokens)
    assert logits.std() > 0.1, "logits that are all alike would prove nothing"


def test_layer_types_and_windows_go_with_their_layers(parts_of: Any) -> None:
    _, parts = parts_of("gemma2", 2)
    stages: list[Any] = [runner.load_part(parts, number) for number in range(2)]
    sliced = [stage.model.config.layer_types for stage in stages]
    assert sliced[0] + sliced[1] == ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]
    assert [layer.self_attn.sliding_window for stage in stages for layer in stage.layers] == [
        4,
        None,
        4,
        None,
        4,
    ]
    for stage in stages:
        assert [layer.self_attn.layer_idx for layer in stage.layers] == list(range(len(stage.layers)))
        kinds = [type(layer).__name__ for layer in stage.new_cache().layers]
        window = {"sliding_attention": "DynamicSlidingWindowLayer", "full_attention": "DynamicLayer"}
        assert kinds == [window[kind] for kind in stage.model.config.layer_types]


def test_a_stage_holds_its_own_weights_and_no_others(parts_of: Any) -> None:
    _, parts = parts_of("llama tied", 3)
    manifest = json.loads((parts / "manifest.json").read_text())
    for number in range(3):
        stage = runner.load_part(parts, number)
        names = {name for name, _ in stage.model.named_parameters()}
        assert any("embed_tokens" in name for name in names) == (number in (0, 2))
        assert any(name.endswith("model.norm.weight") for name in names) == (number == 2)
        buffers = sum(tensor.nbytes for tensor in stage.model.buffers())
        stored = sum(tensor.nbytes for tensor in stage.model.parameters())
        assert stage.nbytes == stored + buffers
        assert stored == 4 * manifest["parts"][number]["params"]
        assert not any(tensor.is_meta for tensor in (*stage.model.parameters(), *stage.model.buffers()))


def test_what_a_stage_lacks_raises_where_it_would_count(parts_of: Any) -> None:
    _, parts = parts_of("llama", 2)
    first, last = (runner.load_part(parts, number) for number in range(2))

    def ask(module: torch.nn.Module, value: torch.Tensor) -> Any:
        def hook(*_: Any) -> None:
            module(value)

        return hook

    first.layers[0].register_forward_pre_hook(ask(first.model.model.norm, torch.zeros(1, 1, 32)))
    with raises(DataError, "damaged") as caught:
        first(torch.tensor([[1, 2]]))
    assert "model.norm" in caught.value.reason
    last.model.lm_head.register_forward_pre_hook(ask(last.model.model.embed_tokens, torch.zeros(1, 1)))
    with raises(DataError, "damaged") as caught:
        last(torch.zeros(1, 2, 32))
    assert "model.embed_tokens" in caught.value.reason


def test_weights_are_mapped_and_keep_the_dtype_of_the_checkpoint(tmp_path: Path) -> None:
    parts = split_into(save_family(tmp_path / "m", "llama", "bfloat16"), tmp_path / "parts", 2)
    stage: Any = runner.load_part(parts, 1)
    weight = stage.layers[0].mlp.up_proj.weight
    assert weight.dtype is stage.dtype is torch.bfloat16
    wider: Any = runner.load_part(parts, 1, dtype="float32")
    assert wider.layers[0].mlp.up_proj.weight.dtype is torch.float32
    maps = Path("/proc/self/maps").read_text()
    ranges = [line.split()[0].split("-") for line in maps.splitlines() if line.endswith("part_1.safetensors")]
    assert any(int(begin, 16) <= weight.data_ptr() < int(end, 16) for begin, end in ranges)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"scale_attn_by_inverse_layer_idx": True},
            "gpt2 cannot run in parts: layer 2 depends on its index, but its index in the part would be 0",
        ),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "gpt2 cannot run in parts: the weights are quantized",
        ),
        ({"model_type": "t5"}, "t5 cannot run in parts: the model has an encoder and a decoder"),
        ({"model_type": "mamba"}, "mamba cannot run in parts: the layers store a state"),
    ],
)
def test_families_that_cannot_run_in_parts(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    parts = split_into(save_family(tmp_path / "m", "gpt2"), tmp_path / "parts", 2)
    config = parts / "model_files" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | keys))
    with pytest.raises(ConfigError, match=message):
        runner.load_part(parts, 1)


@pytest.mark.thorough
@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize("processes", [*(pytest.param(n, marks=pytest.mark.thorough) for n in (1, 2, 4)), 3])
def test_logits_over_processes(parts_of: Any, processes: int) -> None:
    """Real processes, started by torchrun: hidden states over gloo, a key-value cache in each."""
    pairs = [str(path) for family in IN_PROCESSES for path in parts_of(family, processes)]
    script = Path(__file__).parents[3] / "support" / "ring_logits.py"
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *launch, str(script), *pairs],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(IN_PROCESSES)
    assert all(line["processes"] == processes for line in lines)
    assert max(line["delta"] for line in lines) <= EQUAL, lines
    assert all(line["same_tokens"] for line in lines), lines

"""Layers whose `forward` is replaced: they keep their own on a processor without the instructions
for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, open_engine
from streams import complete, requests
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

from runner_base.dtypes import Dtype
from runner_engine.decode.fast_layers import FastLayers
from runner_engine.decode.layouts.norms import infer_norm_layout
from runner_engine.devices.mapped_files import measure_resident_file_mib
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import NormKind
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig


@pytest.mark.thorough
def test_a_processor_without_bfloat16_products_answers_and_says_so(tmp_path: Path) -> None:
    grid = ["-m", "quantization=none,nf4", "hydra/launcher=basic"]  # in one process
    arguments = [*grid, "task=generate", "task.prompt=Hi", "print=json", "tracking=none"]
    done = subprocess.run(
        [sys.executable, "-m", "runner", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "RUNNER_NATIVE": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        record = json.loads((Path(json.loads(line)["output_dir"]) / "result.json").read_text())
        assert any("bfloat16 weights are not packed" in note for note in record["result"]["notes"])
        assert record["result"]["metrics"]["errors"] == 0


@pytest.mark.thorough
def test_without_a_home_the_kernels_are_still_built(tmp_path: Path) -> None:
    """A container's user may have no name and no home."""
    program = (
        "import os, pwd; pwd.getpwuid = lambda _: {}[0]; os.environ.pop('HOME', None)\n"
        "from pathlib import Path\n"
        "try: Path.home()\n"
        "except RuntimeError: print('no home')\n"
        "from runner_engine.kernels import building, native\n"
        "building.FLAGS = building.FLAGS.replace('-O3', '-O0')  # the same functions, built in a second\n"
        "print(native.load_kernels() is not None)"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.split("\n")[:2] == ["no home", str(native.load_kernels() is not None)], done.stderr
    assert list(tmp_path.iterdir()) == [], "no folder that is called ~"


@pytest.mark.skipif(native.load_kernels() is None, reason="there is no C compiler")
def test_a_table_that_the_head_shares_is_in_memory_once(saved_family: Callable[..., Path]) -> None:
    tokens, width = 20_000, 512
    folder = saved_family("llama", head_dim=width // 2, tied=True, vocab_size=tokens)
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32)
    engine = open_engine(make_spec(model=model, generation=GenerationConfig(max_new_tokens=4)))
    assert len(complete(engine, requests())) == len(requests())
    table: Any = engine.loaded.model.get_input_embeddings()
    file, mib = folder / "model.safetensors", table.weight.nbytes / 2**20
    assert mib > 16
    found = table(torch.arange(tokens))
    assert measure_resident_file_mib([file]) < mib / 4, "every row was read, and none from the file"
    assert torch.equal(found, table.weight)
    engine.close()
    assert "forward" not in vars(table)
    assert torch.equal(table(torch.arange(7)), found[:7])


@pytest.mark.parametrize(
    ("norm", "is_replaced", "kind"),
    [(LlamaRMSNorm, True, NormKind.rms_in_steps), (Olmo2RMSNorm, False, NormKind.rms_at_once)],
)
def test_norms_that_round_once_are_not_replaced_by_the_one_that_rounds_twice(
    norm: type[Any], is_replaced: bool, kind: NormKind
) -> None:
    """OLMo multiplies by the weight before it rounds to bfloat16. Rounding before, too, is off by 1.1 times as much."""
    kernels = native.load_kernels()
    if kernels is None:
        pytest.skip("this machine has no C compiler")
    layer = norm(256).to(torch.bfloat16)
    with torch.no_grad():
        layer.weight.copy_(1 + 0.3 * torch.randn(256, generator=torch.Generator().manual_seed(1)))
    rows = torch.randn(64, 256, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    expected = layer(rows)
    fast = FastLayers(torch.nn.Sequential(layer), kernels, {})
    assert (layer in fast.layers) is is_replaced
    assert (layer(rows) != expected).float().mean() < 0.02
    assert infer_norm_layout(layer, 256, rows).kind is kind
    fast.restore()

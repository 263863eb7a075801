"""Each recipe makes a model that its maker's tool, transformers and our engine read alike."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loading import IDS, load, logits, off
from made_models import CALIBRATED, made_by, python_of, with_maker
from safetensors.torch import load_file, save_file

from runner_base.dtypes import Dtype
from runner_engine.embedded import MODEL_DIR
from runner_engine.quantization import CHOICES
from tools import embedded_gguf

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
Run = Callable[..., Any]
PYTHON = Path(sys.executable)
ROUNDING = 2e-5  # of float32, as a share of all logits
ROUNDING_16 = 1e-3  # AutoRound's own layers compute in float16 whatever the model is loaded in
# transformers with the library that reads the format, in the maker's environment
BY_TRANSFORMERS = """
import json, sys
import numpy as np, torch
from transformers import AutoModelForCausalLM
order = json.load(sys.stdin)
model = AutoModelForCausalLM.from_pretrained(order["model"], dtype=torch.float32, **order["more"])
with torch.inference_mode():
    found = model(torch.tensor(order["ids"])).logits.float()
np.save(order["out"], found.numpy())
"""


def logits_by(program: str, python: Path | str, folder: Path, model: Path, **more: Any) -> torch.Tensor:
    """Return the logits that another environment computes."""
    order = {"model": str(model), "ids": IDS.tolist(), "out": str(folder / "out.npy"), "more": more}
    done = subprocess.run(
        [str(python), "-P", "-c", program], input=json.dumps(order), capture_output=True, text=True, timeout=300,
        check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.from_numpy(np.load(folder / "out.npy"))


def with_a_wrong_group(made: Path, copy: Path) -> Path:
    """Copy a model in AutoRound's format; the first inputs of one layer's outputs get scales a
    quarter larger."""
    shutil.copytree(made, copy)
    (file,) = copy.glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if name.endswith("down_proj.scales"))
    tensors[name][0] *= 1.25
    save_file(tensors, file, metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize(
    ("recipe", "more", "stored"),
    [
        with_maker("gptq", (), "pack_quantized"),
        with_maker("awq", (), "pack_quantized"),
        with_maker("rtn", ("task.overrides={down_proj: 8, layers.0: 16}",), None),
        with_maker("autoround", ("task.iterations=4",), "auto_round"),
        with_maker("hqq", (), "hqq"),
        with_maker("torchao_intx", (), "torchao_intx"),
    ],
)
def test_a_folder_is_read_alike_by_transformers_and_by_our_engine(
    runner: Run, tmp_path: Path, recipe: str, more: tuple[str, ...], stored: str | None
) -> None:
    keys = (f"task.recipe={recipe}", "model.dtype=float32", *CALIBRATED, *more)
    made, result = made_by(runner, tmp_path, *keys)
    assert 4 < result["metrics"]["bits_per_weight"] < 16
    ours = logits(load(made, dtype=Dtype.float32))
    python = python_of(recipe)
    with_its_library = logits_by(BY_TRANSFORMERS, python if python.exists() else PYTHON, tmp_path, made)
    limit = ROUNDING_16 if recipe == "autoround" else ROUNDING
    assert off(ours, with_its_library) < limit
    if recipe == "autoround":  # a control: one wrong group of one layer is found by this limit, too
        wrong = with_a_wrong_group(made, tmp_path / "wrong")
        assert off(logits(load(wrong, dtype=Dtype.float32)), with_its_library) > limit
    plain = logits(load(MODEL_DIR, dtype=Dtype.float32))
    assert 100 * ROUNDING < off(ours, plain) < 0.5  # it is another model than the one before
    if stored is not None:  # and of this format alone
        groups: dict[str, Any] = {"group_size": 64} if recipe in ("torchao_intx", "hqq") else {}
        choice = CHOICES[stored](**groups)
        assert torch.equal(ours, logits(load(made, choice, dtype=Dtype.float32)))
    if recipe in ("gptq", "awq", "autoround"):
        assert result["metrics"]["calibration_tokens"] == 16 * 128


@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [with_maker("imatrix_q4_k", "Q5_0"), with_maker("q4_0", "Q4_0"), with_maker("f16", "F16")],
)
def test_a_file_is_read_alike_by_transformers_and_our_engine(
    runner: Run, tmp_path: Path, recipe: str, dtype: str
) -> None:
    source = embedded_gguf.write(tmp_path / "embedded-F32.gguf", "F32")
    keys = (f"task.recipe={recipe}", f"task.gguf={source}", *CALIBRATED)
    made, result = made_by(runner, tmp_path, *keys)
    assert dtype in result["facts"]["stored"]
    assert "SHA-256" in result["facts"]["maker"]
    ours = logits(load(made, CHOICES["gguf"](), dtype=Dtype.float32))
    more = {"gguf_file": made.name}
    unpacked = logits_by(BY_TRANSFORMERS, PYTHON, tmp_path, made.parent, **more)
    assert off(ours, unpacked) < 50 * ROUNDING
    if recipe.startswith("imatrix"):
        assert result["metrics"]["calibration_tokens"] == 16 * 128
        assert result["facts"]["calibration"].startswith("embedded, SHA-256 ")


@pytest.mark.parametrize(("recipe", "less"), [with_maker("imatrix_q2_k", 0.9)])
def test_an_importance_matrix_is_the_mean_square_of_inputs_and_lessens_the_loss(
    runner: Run, tmp_path: Path, recipe: str, less: float
) -> None:
    source = embedded_gguf.write(tmp_path / "embedded-F32.gguf", "F32")
    plain = logits(load(MODEL_DIR, dtype=Dtype.float32)).log_softmax(-1)
    lost = []
    for name in (recipe, recipe.removeprefix("imatrix_")):
        made, _ = made_by(runner, tmp_path / name, f"task.recipe={name}", f"task.gguf={source}", *CALIBRATED)
        found = logits(load(made, CHOICES["gguf"](), dtype=Dtype.float32)).log_softmax(-1)
        lost.append(float((plain.exp() * (plain - found)).sum(-1).mean()))
    assert lost[0] < less * lost[1]


@pytest.mark.parametrize("recipe", [with_maker("rtn")])
def test_single_layers_get_the_bits_that_they_are_given(runner: Run, tmp_path: Path, recipe: str) -> None:
    keys = (*CALIBRATED, "task.overrides={down_proj: 8, layers.1: 16}", "model.dtype=float32")
    made, _ = made_by(runner, tmp_path, f"task.recipe={recipe}", *keys)
    loaded = load(made, dtype=Dtype.float32)
    bits = {
        name: getattr(getattr(layer, "layout", None), "bits", 16)
        for name, layer in loaded.model.named_modules()
        if name.endswith("_proj")
    }
    assert bits["model.layers.0.mlp.down_proj"] == 8
    assert bits["model.layers.0.mlp.up_proj"] == 4
    assert bits["model.layers.1.mlp.up_proj"] == 16

"""Checkpoints of NVIDIA's Model-Optimizer: which are read, what is noted, and what is refused
before anything loads.

That they compute what their plain weights do is in test_stored_mixtures.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modelopt_checkpoints as modelopt
import pytest
import torch
from changed_checkpoints import changed, with_one, without
from loading import configure, load, logits, off
from opening import check_format, predict
from raising import raises
from stored_mixtures import exchanged, save
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_engine.models.layouts.modelopt import ModelOptNvfp4Layout
from runner_engine.quantization import CHOICES, detect_stored_format
from runner_engine.quantization.modelopt import BITS

Saved = Callable[[str], tuple[Path, Path]]
UP = "model.layers.1.mlp.experts.3.up_proj"  # 64 inputs, 64 outputs


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Saved:
    known: dict[str, tuple[Path, Path]] = {}

    def folders(name: str) -> tuple[Path, Path]:
        if name not in known:
            known[name] = save(tmp_path_factory.mktemp(name), "qwen3_moe", name)
            for one in known[name]:
                AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(one)
        return known[name]

    return folders


def plain_logits(folder: Path) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["modelopt_nvfp4_rows", "modelopt_mixed", "modelopt_fp8"])
def test_the_predicted_size_is_that_of_the_loaded_weights(saved: Saved, name: str) -> None:
    folder, _ = saved(name)
    loaded, predicted = load(folder), predict(configure(folder), 2, 8, 8)
    assert predicted is not None
    # that no file has
    unnamed = sum(one.nbytes for key, one in loaded.model.named_buffers() if "inv_freq" in key)
    assert sum(predicted.weights.values()) == pytest.approx(
        sum(loaded.bytes_by_dtype.values()) - unnamed, rel=1e-3
    )


@pytest.mark.thorough
def test_exchanged_experts_are_seen(saved: Saved, tmp_path: Path) -> None:
    folder, plain = saved("modelopt_nvfp4")
    other = exchanged(folder, tmp_path / "other", "model.layers.1.")
    AutoTokenizer.from_pretrained(folder).save_pretrained(other)
    assert off(logits(load(folder, dtype=Dtype.float32)), plain_logits(plain)) < 1e-5
    assert off(logits(load(other, dtype=Dtype.float32)), plain_logits(plain)) > 1e-3


def test_settings_in_a_file_of_their_own_are_read(saved: Saved, tmp_path: Path) -> None:
    folder, plain = saved("modelopt_nvfp4")
    older = tmp_path / "older"
    shutil.copytree(folder, older)
    settings = json.loads((older / "config.json").read_text())
    del settings["quantization_config"]
    (older / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError):  # the control: bytes are no weights
        load(older, dtype=Dtype.float32)
    (older / "hf_quant_config.json").write_text(json.dumps(modelopt.own_file("W4A16_NVFP4")))
    assert off(logits(load(older, dtype=Dtype.float32)), plain_logits(plain)) < 1e-5


@pytest.mark.thorough
def test_scales_of_keys_and_values_are_noted_and_not_used(saved: Saved) -> None:
    notes = {note.code: note.values for note in load(saved("modelopt_nvfp4_rows")[0]).notes}
    assert str(notes["checkpoint_quantized"]["form"]).startswith("modelopt NVFP4 by modelopt")
    assert "kv_scales_unused" in notes
    assert "unused_tensors" not in notes
    assert "kv_scales_unused" not in {note.code for note in load(saved("modelopt_nvfp4")[0]).notes}


REFUSED = [
    (modelopt.settings("W4A16_AWQ"), ("quant_algo=W4A16_AWQ is not supported: the layers scale inputs "
        ".*pre_quant_scale.*use the original checkpoint with quantization=nf4 or int8")),
    (modelopt.settings("NVFP4_SVD"), r"quant_algo=NVFP4_SVD is not supported: .*svdquant_lora_a"),
    (modelopt.settings("W4A8_MXFP4_FP8"), r"quant_algo=W4A8_MXFP4_FP8 is not supported\. Supported: FP8, "),
    (modelopt.settings("MIXED_PRECISION"), r"MIXED_PRECISION needs quantized_layers"),
    (modelopt.settings("MIXED_PRECISION", quantized_layers={"model.layers.0.mlp.up_proj": {"quant_algo": "NVFP4_AWQ"}}), r"quant_algo=NVFP4_AWQ of model\.layers\.0\.mlp\.up_proj is not supported"),
    ({"quant_method": "modelopt"}, r"the checkpoint sets no quant_algo\. Instead"),
]  # fmt: skip


@pytest.mark.parametrize(("stored", "message"), REFUSED)
def test_what_is_not_read_is_refused_before_the_load(
    saved: Saved, tmp_path: Path, stored: dict[str, Any], message: str
) -> None:
    settings = json.loads((saved("modelopt_nvfp4")[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"quantization_config": stored}))
    with pytest.raises(ConfigError, match=message):
        check_format(configure(tmp_path))  # there are no weights


def test_other_choices_are_refused(saved: Saved) -> None:
    with raises(ConfigError, "mismatch", "quantization"):
        check_format(configure(saved("modelopt_nvfp4")[0], CHOICES["nf4"]()))


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(f"{UP}.weight_scale_2"), r"up_proj\.weight: the checkpoint lacks weight_scale_2 of this layer"),
        (without(f"{UP}.weight_scale"), r"no layer uses .*\. The checkpoint lacks the matching weight_scale,"),
        (without(f"{UP}.weight"), r"up_proj\.weight_scale: the checkpoint lacks weight of this layer"),
        (with_one(f"{UP}.weight", lambda one: one[:, 1:]), r"up_proj\.weight: shape \[64, 31\], but a layer with 64 inputs and 64 outputs needs \[64, 32\]"),
        (with_one(f"{UP}.weight_scale", lambda one: one.float()), r"up_proj\.weight_scale: the scale has the dtype F32, but 4-bit codes need F8_E4M3"),
        (with_one(f"{UP}.weight_scale", lambda one: one[:, :2]), r"up_proj\.weight_scale: shape \[64, 2\], .* needs \[64, 4\]"),
        (with_one(f"{UP}.weight_scale_2", lambda one: one * 0), ("weight_scale_2: the layer's scale is not a "
            "finite number above 0")),
        (with_one(f"{UP}.weight_scale_2", lambda one: one.repeat(64)), r"weight_scale_2: shape \[64\], .* needs \[\] or \[1\]"),
        (with_one(f"{UP}.weight", lambda one: torch.zeros(64, 64).to(torch.float8_e4m3fn)), r"weight_scale_2: a float8 layer must not have a second scale"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(
    saved: Saved, tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(changed(saved("modelopt_nvfp4")[0], tmp_path / "changed", change))


def test_formats_are_named_with_their_bits() -> None:
    for algorithm, bits in BITS.items():
        found = detect_stored_format({"quantization_config": modelopt.settings(algorithm)})
        assert found is not None
        assert (found.name, found.bits, found.refusal) == (f"modelopt {algorithm}", bits, None)
    mixed = detect_stored_format({"quantization_config": modelopt.STORED["modelopt_mixed"]})
    assert mixed is not None
    assert mixed.bits == 4, "of the experts"


def test_rows_become_what_the_format_says() -> None:
    """Sixteen numbers have a scale in float8, of which one number for the whole layer is the
    unit."""
    layout = ModelOptNvfp4Layout(4, 16, 32, 8, rows="local")
    rows = torch.zeros(1, 32)
    rows[0, :3] = torch.tensor([6.0, 2.6, -0.2])
    unit = torch.tensor(0.125)  # 6 / (6 * 0.125) = 8, which float8 has
    assert torch.equal(
        layout.round_activations({"input_scale": unit}, rows)[0, :3], torch.tensor([6.0, 3.0, -0.0])
    )
    assert not layout.round_activations({"input_scale": unit}, rows)[0, 16:].any()

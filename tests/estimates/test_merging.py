"""What a plan knows of merging an adapter, beside what a process has measured: time, and memory at
the peak of the load. The controls are plans that leave the merging out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import save_peft
from transformers import LlamaConfig, LlamaForCausalLM

from runner.estimates.rough_speed import SPREAD, MachineRates
from runner_base import MIB
from runner_engine import CHOICES, LocalModelConfig, ModelSpec, predict_footprint, resolve_model
from runner_engine.embedded import MODEL_DIR
from runner_engine.settings.lora import LoraConfig, MergeOrder, PeftConfig

SHAPE: dict[str, Any] = {
    "vocab_size": 896, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6,
    "num_attention_heads": 16, "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TRIES = 3  # the quickest counts
PROGRAM = """
import json, sys, time
import peft, transformers
from runner.estimates.rough_speed import _load_or_measure_machine_rates
from runner.tasks.memory.probe import AnonymousPeakSampler
from runner_base import machine
from runner_engine import CHOICES, LocalModelConfig, ModelSpec, resolve_model
from runner_engine.models.adapter_lifecycle import apply_adapter
from runner_engine.models.base_loading import load_base_model
from runner_engine.settings.lora import MergeOrder, PeftConfig

embedded, folder, adapter, quantization, order = sys.argv[1:]
small = LocalModelConfig(name=embedded, device="cpu", check_memory=False)
load_base_model(resolve_model(ModelSpec(small, CHOICES[quantization]())))  # what libraries take is there before
model = LocalModelConfig(name=folder, device="cpu", threads=1, check_memory=False)
lora = PeftConfig(path=adapter, merge=True, merge_order=MergeOrder(order) if order else None)
job = resolve_model(ModelSpec(model, CHOICES[quantization](), lora))
machine.release_free_memory()
before = machine.anonymous_rss_mib()
started = time.process_time()
with AnonymousPeakSampler() as peak:
    loaded = apply_adapter(load_base_model(job), job)
core_s = time.process_time() - started  # of one thread: other work only lengthens the clock's
measured = {key: loaded.metrics[key] for key in ("load_s", "merge_s")}
print(json.dumps(measured | {"core_s": core_s, "mib": peak.peak_mib - before, "rates": _load_or_measure_machine_rates()}))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a model of 147 MiB in bfloat16, and an adapter on all of its linear layers."""
    folder = tmp_path_factory.mktemp("made")
    model: Any = LlamaForCausalLM(LlamaConfig(**SHAPE))
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(MODEL_DIR / name, folder / name)
    return folder, save_peft(tmp_path_factory.mktemp("adapter"), folder, LINEAR, rank=16)


def planned(folder: Path, quantization: str, lora: LoraConfig) -> Any:
    model = LocalModelConfig(name=str(folder), device="cpu", threads=1, check_memory=False)
    return predict_footprint(resolve_model(ModelSpec(model, CHOICES[quantization](), lora)), (1, 16, 8))


def measured(made: tuple[Path, Path], quantization: str, order: str) -> dict[str, Any]:
    """Return what a process measures that loads the model and merges the adapter."""
    command = [sys.executable, "-c", PROGRAM, str(MODEL_DIR), *map(str, made), quantization, order]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantization", "order"), [("none", ""), ("nf4", "merge_first"), ("nf4", "quantize_first")]
)
def test_the_peak_of_the_load_counts_the_layers_that_are_merged(
    made: tuple[Path, Path], quantization: str, order: str
) -> None:
    lora = PeftConfig(path=str(made[1]), merge=True, merge_order=MergeOrder(order) if order else None)
    of_merging = planned(made[0], quantization, lora)
    without = planned(made[0], quantization, LoraConfig())
    found = measured(made, quantization, order)
    assert found["mib"] == pytest.approx(of_merging.load_mib, rel=0.15)
    assert found["mib"] > 2 * without.load_mib, "the control: a plan that knows nothing of it"
    assert 0 < found["merge_s"] < found["load_s"]


@pytest.mark.thorough
@pytest.mark.slow
def test_the_time_of_a_load_counts_the_merging(made: tuple[Path, Path]) -> None:
    """The guess is by the rates of the process that loads, so what else runs slows both."""
    predicted = planned(made[0], "none", PeftConfig(path=str(made[1]), merge=True))
    parameters = sum(predicted.weights.values()) / 2
    quickest = min((measured(made, "none", "") for _ in range(TRIES)), key=lambda found: found["core_s"])
    rates = MachineRates("cpu", *quickest["rates"])
    speed = rates.estimate_speed(CHOICES["none"](), predicted, parameters, 1)
    with_merging, without = speed.load_s + speed.merge_s, speed.load_s
    assert abs(quickest["core_s"] - with_merging) <= SPREAD * with_merging
    assert quickest["core_s"] > (1 + SPREAD) * without, "the control"
    assert rates.estimate_adapter_merge_s(replace(predicted, merging=None)) == 0


@pytest.mark.thorough
def test_merging_again_quantizes_again(made: tuple[Path, Path]) -> None:
    first, again = (
        planned(made[0], "nf4", PeftConfig(path=str(made[1]), merge=True, merge_order=order))
        for order in (MergeOrder.merge_first, MergeOrder.quantize_first)
    )
    rates = MachineRates("cpu", 1e10, 1e11)
    assert rates.estimate_adapter_merge_s(again) > 2 * rates.estimate_adapter_merge_s(first)
    assert first.merging.numbers * 2 / MIB == pytest.approx(147, rel=0.02)

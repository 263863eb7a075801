"""Every task that loads a model reports the loaded model completely, under the same names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.config.measures import SweepConfig
from runner.config.root import RunnerConfig
from runner.config.task import TaskConfig
from runner.run import run
from runner.tasks.generate.keys import GenerateConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.memory.keys import MemoryConfig
from runner_engine.models.load_summary import summarize_load
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Int8Config
from runner_engine.settings.lora import PeftConfig, PthConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig

Make = Callable[..., RunnerConfig]
FACTS = {"architecture", "dtype", "quantized", "left_alone", "lora", "rope", "attention", "device", "threads"}
KEYS = {"parameters", "weight_mib", "quantized_modules", "unquantized_linears", "lora_modules", "rope_pairs",
        "rope_pairs_patched", "load_s", "load_peak_rss_mib", "load_rss_mib"}  # fmt: skip
KEYS |= {"base_loads", "lora_rank", "lora_parameters", "lora_delta_norm", "vocab_size", "max_positions"}
TASKS: dict[str, TaskConfig] = {
    "gsm8k": Gsm8kConfig(limit=1),
    "generate": GenerateConfig(prompt="2+3=?"),
    "sweep": SweepConfig(batch_sizes=[1], prompt_tokens=[4], new_tokens=2, repeats=1, warmup=0),
    "memory": MemoryConfig(batch_size=1, prompt_tokens=4, new_tokens=2, repeats=1),
}
EMBEDDED = LocalModelConfig(name="embedded", device="cpu")


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize(
    "task", [pytest.param(name, marks=[pytest.mark.slow] * (name == "memory")) for name in TASKS]
)
def test_the_same_report_from_every_task(make_config: Make, task: str) -> None:
    lora = PthConfig(path="embedded")
    config = make_config(
        model=EMBEDDED, quantization=Int8Config(), lora=lora, rope=Rope2dConfig(), task=TASKS[task]
    )
    record = run(config)
    kept = json.loads((Path(record.output_dir) / "result.json").read_text())["result"]
    metrics, facts = kept["metrics"], kept["facts"]
    assert set(metrics) >= KEYS
    assert set(facts) >= FACTS
    assert (metrics["quantized_modules"], metrics["unquantized_linears"]) == (28, 1)
    assert facts["quantized"].startswith("int8: 93 % of the parameters")
    assert facts["quantized"].endswith("(28 of 29 linear layers: 28 Linear8bitLt)")
    assert facts["left_alone"] in ("model.embed_tokens", "model.embed_tokens, lm_head")
    by_dtype = {key: value for key, value in metrics.items() if key.startswith("weight_mib/")}
    assert set(by_dtype) == {"weight_mib/int8", "weight_mib/bfloat16", "weight_mib/float32"}
    assert sum(by_dtype.values()) == pytest.approx(metrics["weight_mib"])
    # square layers are q_proj and o_proj of 4 blocks, with A [16, 256] and B [256, 16] each
    assert (metrics["lora_modules"], metrics["lora_rank"], metrics["lora_parameters"]) == (
        8,
        16,
        8 * 2 * 16 * 256,
    )
    assert metrics["lora_delta_norm"] == pytest.approx(6.149, abs=0.001)
    assert facts["lora"] == "pth embedded: 8 modules · rank 16 · norm of the delta 6.15 · 65,536 parameters"
    assert (metrics["rope_pairs"], metrics["rope_pairs_patched"]) == (32, 16)
    assert "pairs 17–32 of 32: branch 17, 19, … time 18, 20, …, stride 128" in facts["rope"]
    assert (facts["attention"], facts["device"], facts["threads"]) == ("sdpa", "cpu", "1")
    assert metrics["load_peak_rss_mib"] >= metrics["load_rss_mib"] > 100
    assert metrics["load_s"] > 0
    assert metrics["base_loads"] == 1
    assert len(summarize_load(metrics, facts)) == 6


def test_what_is_off_says_so(make_config: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="runner_engine"):
        record = run(make_config(model=EMBEDDED, task=GenerateConfig(prompt="2+3=?")))
    metrics, facts = record.result.metrics, record.result.facts
    assert (facts["quantized"], facts["left_alone"], facts["lora"]) == (
        "none",
        "all 29 linear layers",
        "none",
    )
    assert metrics["quantized_modules"] == metrics["rope_pairs_patched"] == metrics["lora_modules"] == 0
    assert metrics["lora_delta_norm"] == metrics["lora_parameters"] == metrics["lora_rank"] == 0
    assert (metrics["unquantized_linears"], metrics["rope_pairs"]) == (29, 32)
    (message,) = [
        entry.message for entry in caplog.records if entry.name == "runner_engine.models.adapter_lifecycle"
    ]
    assert message.splitlines()[1].split()[:2] == ["loaded", "LlamaForCausalLM"]
    assert len(message.splitlines()) == 1 + 6
    log = (Path(record.output_dir) / "log.txt").read_text()
    assert message in log, "the log of the job has it, too"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("merge", [False, True])
def test_a_peft_adapter_proves_itself(make_config: Make, merge: bool) -> None:
    lora, plain = PeftConfig(path="embedded", merge=merge), QuantizationConfig()
    config = make_config(model=EMBEDDED, quantization=plain, lora=lora, task=GenerateConfig(prompt="2+3=?"))
    result = run(config).result
    assert (result.metrics["lora_modules"], result.metrics["lora_rank"]) == (28, 8)
    assert result.facts["lora"].startswith("peft embedded: 28 modules · rank 8 · norm of the delta 9.11 · ")
    assert result.facts["lora"].endswith(" · merged into the weights") is merge

"""The memory task: its fresh process on the stub and on a real tiny model, and how it reports a death."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from tasking import work

from runner.config.measures import MemoryConfig
from runner.config.model import LocalModelConfig
from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError, JobFailed
from runner.core.metrics import BY_REPEATS
from runner.core.result import Result, read_repeats
from runner.engines.base import Engine
from runner.quantization.bitsandbytes import Nf4Config
from runner.store.jobs import Job, Recorder
from runner.tasks import memory, memory_probe

MakeConfig = Callable[..., RunnerConfig]
STAGES = ["import", "load", "prefill", "decode"]


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    folder = tmp_path / "job"
    folder.mkdir()
    return Recorder(Job("memory-test", folder))


def untouched() -> Engine:
    raise AssertionError("the memory task must not load anything in its own process")


def measure(config: RunnerConfig, recorder: Recorder) -> Result:
    return work(memory, config, recorder)


def small(**keys: Any) -> MemoryConfig:
    return MemoryConfig(**({"batch_size": 2, "prompt_tokens": 8, "new_tokens": 3, "repeats": 1} | keys))


def test_the_stub_goes_through_all_stages(make_config: MakeConfig, recorder: Recorder) -> None:
    result = measure(make_config(task=small(repeats=2)), recorder)
    assert [row["stage"] for row in result.rows] == STAGES
    assert all(row["peak_rss_mib"] >= row["steady_rss_mib"] > 0 for row in result.rows)
    assert [row["predicted_mib"] for row in result.rows] == [None, 0, 0, 0]
    assert result.metrics["peak_rss_mib_min"] <= result.metrics["peak_rss_mib"] <= result.metrics["peak_rss_mib_max"]
    assert result.metrics["weight_mib"] == result.metrics["predicted_weight_mib"] == 0
    assert all(re.fullmatch(r"[\w\-. :/]+", key) for key in result.metrics)
    repeats = read_repeats(recorder.folder / "repeats.jsonl")
    assert {*BY_REPEATS} & result.metrics.keys() <= repeats.keys()
    for name, values in repeats.items():
        assert result.metrics[name] == median(values)
        assert len(values) == 2
    assert len(result.notes) == len(set(result.notes))


@pytest.mark.slow
def test_a_real_model_is_measured_and_predicted(make_config: MakeConfig, recorder: Recorder, tiny_llama: Path) -> None:
    model = LocalModelConfig(name=str(tiny_llama), device="cpu")
    result = measure(make_config(model=model, task=small(prompt_tokens=16)), recorder)
    assert abs(result.metrics["weight_prediction_error"]) < 0.02
    assert result.metrics["baseline_mib"] > 50  # torch is in there
    assert result.metrics["decode_tok_per_s"] > 0
    assert result.metrics["import_s"] > 0
    assert result.metrics["load_s"] > 0
    assert result.facts["device"] == "cpu"


@pytest.fixture
def blocky_llama(tiny_llama: Path, tmp_path: Path) -> Path:
    """The tiny Llama with sizes that are multiples of 64, as 4-bit blocks on some CPUs need them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "blocky"
    shutil.copytree(tiny_llama, folder)
    config = LlamaConfig.from_pretrained(folder, hidden_size=128, intermediate_size=256)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_quantized_model(make_config: MakeConfig, recorder: Recorder, blocky_llama: Path) -> None:
    model = LocalModelConfig(name=str(blocky_llama), device="cpu")
    result = measure(make_config(model=model, quantization=Nf4Config(), task=small()), recorder)
    assert result.metrics["quantized_modules"] > 0
    assert abs(result.metrics["weight_prediction_error"]) < 0.05


@pytest.mark.slow
def test_an_error_in_the_probe_arrives_as_itself(make_config: MakeConfig, recorder: Recorder, tiny_llama: Path) -> None:
    model = LocalModelConfig(name=str(tiny_llama), device="cpu")
    with pytest.raises(ConfigError, match=r"task\.prompt_tokens=100000"):
        measure(make_config(model=model, task=small(prompt_tokens=100_000)), recorder)


def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Let another module be the probe."""
    (tmp_path / "pretended_probe.py").write_text("import json, os, signal, sys\n" + code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(memory, "PROBE", "pretended_probe")


def test_a_killed_probe_is_named(
    make_config: MakeConfig, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "print(json.dumps({'begin': 'load'}), flush=True)\nsys.stderr.write('last words\\n')\n"
    pretend(monkeypatch, tmp_path, code + "sys.stderr.flush()\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(JobFailed) as failed:
        measure(make_config(task=small()), recorder)
    message = str(failed.value)
    assert "killed by SIGKILL, likely for lack of memory, in stage load" in message
    assert "repeat 1 of 1" in message
    assert "last words" in message
    assert (recorder.folder / "memory_probe.log").read_text() == "last words\n"


def test_a_crashed_probe_quotes_its_log(
    make_config: MakeConfig, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, "raise ValueError('a bug')\n")
    with pytest.raises(JobFailed, match=r"(?s)exit code 1, in stage start.*ValueError: a bug"):
        measure(make_config(task=small()), recorder)


def test_a_probe_that_ends_early_is_not_a_result(
    make_config: MakeConfig, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, "sys.exit(0)\n")
    with pytest.raises(JobFailed, match="exit code 0, in stage start"):
        measure(make_config(task=small()), recorder)


def test_a_missing_model_is_refused_before_any_process(make_config: MakeConfig, recorder: Recorder) -> None:
    with pytest.raises(ConfigError, match=r"model\.name=\./nowhere"):
        measure(make_config(model=LocalModelConfig(name="./nowhere"), task=small()), recorder)


def test_stages_of_the_probe_and_the_task_agree(make_config: MakeConfig) -> None:
    assert list(memory.STAGES) == STAGES
    assert memory_probe.__name__ == memory.PROBE


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pss_is_read() -> None:
    figures = memory_probe.pss_mib()
    assert figures["pss_mib"] > figures["pss_file_mib"] > 0

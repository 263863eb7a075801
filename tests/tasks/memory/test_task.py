"""The memory task: its fresh process on the stub and on a real tiny model, and how it reports a
death."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from raising import raises
from tasking import work

from runner.config.root import RunnerConfig
from runner.records.jobs import Job, Recorder
from runner.tasks.memory import memory_metrics, probe
from runner.tasks.memory import task as memory
from runner.tasks.memory.keys import MemoryConfig
from runner_base.errors import ConfigError, JobFailed
from runner_base.repeats import read_repeats
from runner_base.result import Result
from runner_compare.ways.repeats import BY_REPEATS
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.sessions.contract import Engine
from runner_engine.settings.model import LocalModelConfig

MakeConfig = Callable[..., RunnerConfig]
STAGES = ["import", "load", "first pass", "prefill", "decode"]


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


@pytest.mark.thorough
@pytest.mark.slow
def test_the_stub_goes_through_all_stages(make_config: MakeConfig, recorder: Recorder) -> None:
    result = measure(make_config(task=small(repeats=2)), recorder)
    assert [row["stage"] for row in result.rows] == STAGES
    assert all(row["rss_mib"] > 0 for row in result.rows)
    for row in result.rows:  # what a peak is made of is the peak
        parts = sum(row[f"{part}_mib"] for part in ("weights", "kv", "activation", "runtime"))
        assert parts == pytest.approx(row["peak_mib"], abs=0.3)
    assert [row["predicted_mib"] for row in result.rows] == [None, 0, 0, 0, 0]
    assert (
        result.metrics["peak_rss_mib_min"]
        <= result.metrics["peak_rss_mib"]
        <= result.metrics["peak_rss_mib_max"]
    )
    assert result.metrics["weight_mib"] == result.metrics["predicted_weight_mib"] == 0
    assert all(re.fullmatch(r"[\w\-. :/]+", key) for key in result.metrics)
    repeats = read_repeats(recorder.folder / "repeats.jsonl")
    assert {*BY_REPEATS} & result.metrics.keys() <= repeats.keys()
    for name, values in repeats.items():
        assert result.metrics[name] == median(values)
        assert len(values) == 2
    assert len(result.notes) == len(set(result.notes))


@pytest.mark.thorough
@pytest.mark.slow
def test_a_real_model_is_measured_and_predicted(
    make_config: MakeConfig, recorder: Recorder, tiny_llama: Path
) -> None:
    """Two batch sizes × two lengths, in one process: keys and values grow as the formula has it,
    and are drawn."""
    model = LocalModelConfig(name=str(tiny_llama), device="cpu")
    task = small(batch_sizes=[4, 32], context_lengths=[200, 400])
    result = measure(make_config(model=model, task=task), recorder)
    metrics = result.metrics
    assert abs(metrics["weight_prediction_error"]) < 0.02
    assert abs(metrics["kv_prediction_error"]) < 0.1  # 4 KiB are a page, and here many tokens
    slope = metrics["predicted_kv_per_1000_tokens_mib"]
    assert metrics["kv_per_1000_tokens_mib"] == pytest.approx(slope, rel=0.1)
    assert [(row["batch"], row["context"]) for row in result.rows if row["stage"] == "decode"] == [
        (4, 200), (4, 400), (32, 200), (32, 400)]  # fmt: skip
    assert metrics["points"] == 4
    assert metrics["baseline_mib"] > 50  # torch is in there
    assert metrics["decode_tok_per_s"] > 0
    assert metrics["import_s"] > 0
    assert result.facts["device"] == "cpu"
    for name in ("memory", "context"):
        assert (recorder.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


LIMITED = """
import resource, sys
from runner_base import machine
from runner.tasks.memory import probe

own = probe._measure_workload_memory

def limited(probe, number, *others):
    size_mib = machine._read_status_mib("VmSize")
    limit = int((size_mib + 96) * machine.MIB)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        own(probe, number, *others)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

probe._measure_workload_memory = limited
sys.exit(probe.main())
"""


@pytest.mark.thorough
@pytest.mark.usefixtures("warm_children")
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not keep to RLIMIT_AS")
def test_a_point_that_runs_out_of_memory_is_recorded(
    make_config: MakeConfig,
    recorder: Recorder,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real limit of the system; the points that are as large are not tried, and the others are
    measured."""
    pretend(monkeypatch, tmp_path, LIMITED)
    model = LocalModelConfig(name=str(tiny_llama), device="cpu")
    task = small(batch_sizes=[1, 1024], context_lengths=[400, 420], new_tokens=8, pictures=False)
    result = measure(make_config(model=model, task=task), recorder)
    notes = {(row["batch"], row["context"]): row["note"] for row in result.rows if row["batch"]}
    assert notes[1, 400] == notes[1, 420] == ""
    assert notes[1024, 400].startswith("out of memory: ")
    assert notes[1024, 420] == "skipped: batch 1024, context 400 ran out of memory"
    assert result.metrics["points_not_measured"] == 2
    assert any(
        note.startswith("2 of 4 pairs of batch size and context length were not measured")
        for note in result.notes
    )


KILLED = """
from runner.tasks.memory import probe

own = probe._measure_workload_memory

def killed(probe, number, point, *others):
    if point[0] == 3:
        probe.send_event_to_parent(begin="prefill", point=number)
        os.kill(os.getpid(), signal.SIGKILL)
    own(probe, number, point, *others)

probe._measure_workload_memory = killed
sys.exit(probe.main())
"""


def test_a_point_that_kills_its_process_leaves_the_others(
    make_config: MakeConfig, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of 2 × 128 is no smaller, but is smaller in one of the two: it may do."""
    pretend(monkeypatch, tmp_path, KILLED)
    result = measure(
        make_config(task=small(batch_sizes=[1, 2, 3], context_lengths=[64, 128], pictures=False)), recorder
    )
    notes = {(row["batch"], row["context"]): row["note"] for row in result.rows if row["batch"]}
    why = "was killed by SIGKILL, probably because memory ran out, in stage prefill"
    assert notes == {(1, 64): "", (1, 128): "", (2, 64): "", (2, 128): "", (3, 64): why,
                     (3, 128): f"not tried: a smaller point {why}"}  # fmt: skip


@pytest.fixture
def blocky_llama(tiny_llama: Path, tmp_path: Path) -> Path:
    """The tiny Llama with sizes that are multiples of 64, as 4-bit blocks on some CPUs need
    them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "blocky"
    shutil.copytree(tiny_llama, folder)
    config = LlamaConfig.from_pretrained(folder, hidden_size=128, intermediate_size=256)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("warm_children")
@pytest.mark.slow
def test_a_quantized_model(make_config: MakeConfig, recorder: Recorder, blocky_llama: Path) -> None:
    model = LocalModelConfig(name=str(blocky_llama), device="cpu")
    result = measure(make_config(model=model, quantization=Nf4Config(), task=small()), recorder)
    assert result.metrics["quantized_modules"] > 0
    assert abs(result.metrics["weight_prediction_error"]) < 0.05


@pytest.mark.thorough
@pytest.mark.usefixtures("warm_children")
@pytest.mark.slow
def test_an_error_in_the_probe_arrives_as_itself(
    make_config: MakeConfig, recorder: Recorder, tiny_llama: Path
) -> None:
    model = LocalModelConfig(name=str(tiny_llama), device="cpu")
    with raises(ConfigError, "too_large"):
        measure(make_config(model=model, task=small(prompt_tokens=100_000)), recorder)


def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Let another module be the probe."""
    (tmp_path / "pretended_probe.py").write_text("import json, os, signal, sys\n" + code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(memory, "PROBE", "pretended_probe")


def test_a_killed_probe_is_named(
    make_config: MakeConfig, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "print(json.dumps({'begin': 'load', 'point': None}), flush=True)\nsys.stderr.write('last words\\n')\n"
    )
    pretend(monkeypatch, tmp_path, code + "sys.stderr.flush()\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with raises(JobFailed, "failed") as failed:
        measure(make_config(task=small()), recorder)
    message = failed.value.reason
    assert "killed by SIGKILL, probably because memory ran out during stage load" in message
    assert "repeat 1 of 1" in message
    assert "last words" in message
    assert (recorder.folder / "memory_probe.log").read_text() == "last words\n"


def test_a_crashed_probe_quotes_its_log(
    make_config: MakeConfig, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, "raise ValueError('a bug')\n")
    with raises(JobFailed, "failed"):
        measure(make_config(task=small()), recorder)


def test_a_probe_that_ends_early_is_not_a_result(
    make_config: MakeConfig, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, "sys.exit(0)\n")
    with raises(JobFailed, "failed"):
        measure(make_config(task=small()), recorder)


def test_a_missing_model_is_refused_before_any_process(make_config: MakeConfig, recorder: Recorder) -> None:
    with pytest.raises(ConfigError, match=r"model\.name=\./nowhere"):
        measure(make_config(model=LocalModelConfig(name="./nowhere"), task=small()), recorder)


def test_stages_of_the_probe_and_the_task_agree() -> None:
    assert [*memory_metrics.AT_START, *memory_metrics.IN_POINTS] == STAGES
    assert probe.__name__ == memory.PROBE


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pss_is_read() -> None:
    measured = probe.read_proportional_memory_mib()
    assert measured["pss_mib"] > measured["pss_file_mib"] > 0


def test_predicting_imports_no_torch() -> None:
    code = "import sys, runner_engine.plan.footprint, runner.tasks.memory; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

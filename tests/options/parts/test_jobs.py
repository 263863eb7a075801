"""What the rest of the runner sees of parts: keys, completion, checks, what a grid plans, and
described metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra.plugins.completion_plugin import CompletionPlugin
from stages import split_into
from trips import Trip

from runner.config.completion import add_value_completion
from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.config.runner_hydra import create_hydra
from runner.config.task import TaskConfig
from runner.grid.plan import PlannedJob, predict_resources
from runner.grid.worker_limits import WorkerLimits, compute_worker_limits
from runner.options.parts.keys import ArchiveConfig, MergeConfig, SplitConfig, SplitStrategy, VerifyConfig
from runner.options.parts.model_keys import PartsModelConfig
from runner.run import check_job_before_model_loading, run
from runner.tasks.generate.keys import GenerateConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base import machine, visible_gpus
from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.visible_gpus import Gpu
from runner_compare.metrics import find_metric, known_metrics
from runner_engine.checkpoints.locating import locate_model
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalConfig, LocalModelConfig

Make = Callable[..., RunnerConfig]
EMBEDDED = LocalModelConfig(name="embedded", device="cpu")
FOUR = [Gpu(str(number), "H100", f"GPU-{number}") for number in range(4)]
NO = frozenset[int]()


@pytest.fixture
def halves(tiny_llama: Path, tmp_path: Path) -> Path:
    return split_into(tiny_llama, tmp_path / "parts", 2)


def test_the_yaml_of_a_split_has_the_defaults_of_its_schema() -> None:
    composed, choices = compose_job(["task=split"])
    assert to_runner_config(composed, choices).task == SplitConfig()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("task=split task.strategy=", [f"task.strategy={strategy}" for strategy in sorted(SplitStrategy)]),
        ("task=split task.strategy=balanced_p", ["task.strategy=balanced_params"]),
        ("task=split task.explain=", ["task.explain=null", "task.explain=vllm"]),
    ],
)
def test_what_completion_offers(line: str, offered: list[str]) -> None:
    plugin: CompletionPlugin = add_value_completion(BashCompletion(create_hydra().config_loader))
    assert plugin._query("config", line) == offered


def test_a_kv_cache_in_8_bits_needs_the_scheduler(make_config: Make) -> None:
    why = "continuous batching, but model=parts does not"
    with pytest.raises(ConfigError, match=f"^generation.kv_cache=int8: .*{why}.* Use .*as_model"):
        make_config(model=PartsModelConfig(name="x"), generation=GenerationConfig(kv_cache=KvCache.int8))


def test_a_split_loads_nothing_and_needs_nothing(make_config: Make) -> None:
    large = LocalModelConfig(
        name="org/shape", shape="qwen25_7b_instruct", random_weights=True, device="cpu", dtype=Dtype.float32
    )
    assert (
        check_job_before_model_loading(
            resolve_job(make_config(model=large, task=SplitConfig(output_dir="x")))
        )
        == []
    )


def test_a_task_that_reads_parts_never_asks_for_the_model_group(make_config: Make) -> None:
    # looking for it would need the network, which no test has
    absent = LocalModelConfig(name="nobody/no-such-model")
    for task in (VerifyConfig(parts="p"), ArchiveConfig(parts="p", output_dir="a")):
        assert check_job_before_model_loading(resolve_job(make_config(model=absent, task=task))) == []


@pytest.mark.parametrize("kind", [LocalConfig, LocalModelConfig])
def test_the_parts_of_a_split_are_no_model(
    trip: Trip, tiny_llama: Path, kind: type[LocalModelConfig]
) -> None:
    trip.split(tiny_llama)
    parts = trip.parts
    with pytest.raises(ConfigError) as refused:
        locate_model(kind(name=str(parts)))
    assert f"{parts} contains the parts of a split" in str(refused.value)
    for command in (f"model=parts model.name={parts}", f"task=merge task.parts={parts}"):
        assert command in str(refused.value)


def planned(make_config: Make, task: TaskConfig, **groups: Any) -> PlannedJob:
    config = make_config(task=task, **groups)
    return PlannedJob([], config, resolved=resolve_job(config))


def test_each_job_without_a_shared_base_counts(
    make_config: Make, halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "count_available_cpu_cores", lambda: 4)
    monkeypatch.setattr(machine, "visible_gpu_models", list)
    # takes all cores
    pipeline = planned(make_config, Gsm8kConfig(), model=PartsModelConfig(str(halves)))
    verify = planned(make_config, VerifyConfig(parts=str(halves)))  # takes one
    assert compute_worker_limits([verify, verify], [0, 1], "auto") == WorkerLimits(2, 2)
    for plan in ([pipeline, verify], [verify, pipeline]):
        assert compute_worker_limits(plan, [0, 1], "auto") == WorkerLimits(1, 1)


def test_a_pipeline_needs_a_gpu_for_each_process(
    make_config: Make, halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "resolve_device_class", lambda device: "cpu" if device == "cpu" else "cuda")
    monkeypatch.setattr(machine, "visible_gpu_models", lambda: [gpu.model for gpu in FOUR])
    monkeypatch.setattr(visible_gpus, "find_visible_gpus", lambda: FOUR)
    monkeypatch.setattr(visible_gpus, "measure_free_gpu_memory_mib", list)
    for keys, gpus, named in (
        ({}, 2, NO),
        ({"stages": 1}, 1, NO),
        ({"device": "cuda:3"}, 1, {3}),
        ({"device": "cpu"}, 0, NO),
    ):
        model_keys: dict[str, Any] = keys
        need = predict_resources(resolve_job(make_config(model=PartsModelConfig(str(halves), **model_keys))))
        assert need.gpus == gpus
        assert need.named_gpus == named


@pytest.mark.thorough
@pytest.mark.slow
def test_what_becomes_of_a_checkpoint_is_described(make_config: Make, tmp_path: Path) -> None:
    parts = str(tmp_path / "parts")
    for task, model in (
        (SplitConfig(num_parts=2, output_dir=parts), EMBEDDED),
        (VerifyConfig(parts=parts), EMBEDDED),
        (MergeConfig(parts=parts, output_dir=str(tmp_path / "merged")), EMBEDDED),
        (ArchiveConfig(parts=parts, output_dir=str(tmp_path / "packed")), EMBEDDED),
        (GenerateConfig(prompt="2+3=?"), PartsModelConfig(parts)),
    ):
        metrics = run(
            make_config(model=model, task=task, generation=GenerationConfig(max_new_tokens=4))
        ).result.metrics
        assert {key for key in metrics if find_metric(key).key not in known_metrics()} == set(), task.name

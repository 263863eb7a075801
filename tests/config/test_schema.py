"""Every YAML composes, every check names its full key, every key is either semantic or inert with a
reason."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from options_here import absent, studies
from raising import raises

from runner.config.choices import CONF, installed_choice_files
from runner.config.compose import compose_job, create_composer
from runner.config.groups import GROUPS
from runner.config.hydra import to_runner_config
from runner.config.measures import SweepConfig
from runner.config.model import StubConfig
from runner.config.root import RunnerConfig, TrackingConfig, iterate_job_id_keys
from runner.config.wording import PromptStyle
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.memory.keys import MemoryConfig
from runner_base.dtypes import Dtype
from runner_base.errors import Code, ConfigError
from runner_base.fields import NotInIdentity, get_identity_rule
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Int8Config, Nf4Config
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig, PeftConfig, PthConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.rope import RopeConfig

ROOT = Path(__file__).resolve().parents[2]

# the keys that a choice leaves to the user
NEEDS = {
    "model=auto": ["model.name=./x"],
    "model=local": ["model.name=./x"],
    "model=vllm": ["model.name=./x"],
    "model=llama_cpp": ["model.name=./x.gguf"],
    "lora=peft": ["lora.path=./x"],
    "lora=pth": ["lora.path=./x"],
    "lora=several": ["lora.adapters={a: ./x}", "task=serve"],
    "task=generate": ["task.prompt=x"],
    "task=split": ["task.output_dir=./x"],
    "model=parts": ["model.name=./x"],
    "task=merge": ["task.parts=./x", "task.output_dir=./y"],
    "task=quantize": ["task.recipe=q8_0"],
    "task=verify": ["task.parts=./x"],
    "model=api": ["model.base_url=http://127.0.0.1:1/v1", "model.name=x"],
    "model=hybrid": ["model.teacher.base_url=http://127.0.0.1:1/v1", "model.teacher.name=x"],
    "task=archive": ["task.parts=./x", "task.output_dir=./y"],
}
# several adapters need a server
NOT_INSTALLED = {"lora=several"} if "serve" in absent() else set()
CHOICES = [
    choice
    for group in GROUPS
    for file in installed_choice_files(group)
    if (choice := f"{group}={file.stem}") not in NOT_INSTALLED
]


def composed(*overrides: str) -> RunnerConfig:
    return to_runner_config(*compose_job(overrides))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes(choice: str) -> None:
    group = choice.partition("=")[0]
    try:
        config = composed(choice, *NEEDS.get(choice, []))
    except ConfigError as error:
        pytest.fail(f"{error}. Say in NEEDS what {choice} leaves to the user")
    assert isinstance(getattr(config, group), tuple(GROUPS[group].values()))
    assert getattr(config, group).name


@pytest.mark.sampled(11)
@pytest.mark.parametrize("file", studies(), ids=lambda file: file.stem)
def test_every_study_composes(file: Path) -> None:
    study = create_composer(file.stem, str(file.parent)).compose([])
    assert study.hydra.mode.name == "MULTIRUN", "a study runs as a grid without -m"
    assert study.hydra.sweeper.params or study.hydra.sweeper.cases
    text = file.read_text()
    assert text.startswith("#"), "a study says on top what it asks"
    assert f"runner -cd experiments -cn {file.stem}" in text


def test_every_group_of_the_menu_has_a_folder_and_a_schema() -> None:
    menu = OmegaConf.load(CONF / "config.yaml")
    groups = [next(iter(line)) for line in menu.defaults if not isinstance(line, str)]
    chosen = [group for group in groups if not group.startswith(("override", "optional"))]
    assert chosen == [*GROUPS, "profile"]  # which chooses several groups and has no keys
    assert {folder.name for folder in CONF.iterdir() if folder.is_dir()} == {
        *GROUPS,
        "profile",
        "dataset",
        "hydra",
    }


def test_menu_defaults_equal_the_schema() -> None:
    """YAML and schema have the same defaults, so that reading either is enough."""
    config = composed()
    assert config.generation == GenerationConfig()
    assert config.task == Gsm8kConfig(cluster="template")  # of the data set
    assert config.model == LocalModelConfig(name="embedded")
    assert composed("model=stub").model == StubConfig()
    assert composed("task=sweep").task == SweepConfig()
    assert (
        composed("task=sweep", "task.new_tokens=[32]").task
        == composed("task=sweep", "task.new_tokens=32").task
    )
    assert composed("task=memory").task == MemoryConfig()
    assert composed("quantization=nf4").quantization == Nf4Config()


@pytest.mark.parametrize(
    ("build", "code", "key"),
    [
        (lambda: LocalModelConfig(name="x", device="mps"), "unsupported", "model.device"),
        (lambda: LocalModelConfig(name="x", device="gpu"), "unknown_choice", "model.device"),
        (lambda: LocalModelConfig(name="x", device="cpu:1"), "unknown_choice", "model.device"),
        (lambda: LocalModelConfig(name=" "), "bad_value", "model.name"),
        (lambda: LocalModelConfig(name="x", device_map="balanced"), "unknown_choice", "model.device_map"),
        (
            lambda: LocalModelConfig(name="x", device_map="auto", max_memory={"gpu": "8GB"}),
            "bad_value",
            "model.max_memory.gpu",
        ),
        (
            lambda: LocalModelConfig(name="x", device_map="auto", max_memory={"0": "8"}),
            "bad_value",
            "model.max_memory.0",
        ),
        (lambda: StubConfig(delay_s=-1), "bad_value", "model.delay_s"),
        (lambda: Int8Config(threshold=-1), "bad_value", "quantization.threshold"),
        (lambda: Nf4Config(compute_dtype=Dtype.auto), "bad_value", "quantization.compute_dtype"),
        (lambda: PeftConfig(path=""), "bad_value", "lora.path"),
        (lambda: PthConfig(path=" "), "bad_value", "lora.path"),
        (lambda: PthConfig(path="x", rank=0), "bad_value", "lora.rank"),
        (lambda: GenerationConfig(max_new_tokens=0), "bad_value", "generation.max_new_tokens"),
        (lambda: GenerationConfig(temperature=-0.1), "bad_value", "generation.temperature"),
        (lambda: GenerationConfig(temperature=1, top_p=0), "bad_value", "generation.top_p"),
        (lambda: GenerationConfig(temperature=1, top_k=-1), "bad_value", "generation.top_k"),
        (lambda: GenerationConfig(repetition_penalty=0), "bad_value", "generation.repetition_penalty"),
        (lambda: GenerationConfig(batch_size=0), "bad_value", "generation.batch_size"),
        (lambda: Gsm8kConfig(limit=0), "bad_value", "task.limit"),
        (lambda: Gsm8kConfig(offset=-1), "bad_value", "task.offset"),
        (lambda: Gsm8kConfig(shuffle_seed=-1), "bad_value", "task.shuffle_seed"),
        (lambda: Gsm8kConfig(shots=-1), "bad_value", "task.shots"),
        (lambda: Gsm8kConfig(samples=0), "bad_value", "task.samples"),
        (lambda: Gsm8kConfig(check_invariance=-1), "bad_value", "task.check_invariance"),
        (lambda: Gsm8kConfig(check_invariance="some"), "bad_value", "task.check_invariance"),
        (lambda: Gsm8kConfig(check_contamination=-1), "bad_value", "task.check_contamination"),
        (lambda: Gsm8kConfig(data=""), "bad_value", "task.data"),
        (lambda: Gsm8kConfig(prompt=PromptStyle.text, system="x"), "conflict", ""),
        (lambda: Gsm8kConfig(prompt=PromptStyle.lm_eval_5shot, system="x"), "conflict", ""),
        (lambda: Gsm8kConfig(prompt=PromptStyle.lm_eval_5shot, shots=5), "conflict", "task.shots"),
        (
            lambda: Gsm8kConfig(prompt=PromptStyle.lm_eval_5shot, template="{question}"),
            "conflict",
            "task.template",
        ),
        (lambda: Gsm8kConfig(template="Solve it."), "missing", "task.template"),
        (lambda: Gsm8kConfig(template="{qestion}"), "unknown_choice", "task.template"),
        (lambda: SweepConfig(batch_sizes=[]), "empty", "task.batch_sizes"),
        (lambda: SweepConfig(prompt_tokens=[0]), "bad_value", "task.prompt_tokens"),
        (lambda: SweepConfig(batch_sizes=[2, 2]), "bad_value", "task.batch_sizes"),
        (lambda: SweepConfig(new_tokens=1), "bad_value", "task.new_tokens"),
        (lambda: SweepConfig(new_tokens="many"), "bad_value", "task.new_tokens"),
        (lambda: SweepConfig(shared_prefix=[0, 1.5]), "bad_value", "task.shared_prefix"),
        (lambda: SweepConfig(arrival_rates=[1, 0]), "bad_value", "task.arrival_rates"),
        (lambda: SweepConfig(arrival_duration_s=0), "bad_value", "task.arrival_duration_s"),
        (lambda: SweepConfig(arrival_requests=1), "bad_value", "task.arrival_requests"),
        (lambda: MemoryConfig(repeats=0), "bad_value", "task.repeats"),
        (lambda: TrackingConfig(experiment=""), "bad_value", "tracking.experiment"),
    ],
)
def test_checks_name_the_key(build: Any, code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        build()


@pytest.mark.parametrize(
    ("build", "code", "message"),
    [
        (
            lambda: LocalModelConfig(name="x", max_memory={"cpu": "8GB"}),
            "missing",
            r"^model\.max_memory .* model\.device_map=auto",
        ),
        (
            lambda: LocalModelConfig(name="x", device_map="auto", device="cpu"),
            "conflict",
            r"^model\.device_map=auto .* model\.device=cpu",
        ),
        (
            lambda: GenerationConfig(top_k=5),
            "no_effect",
            r"^generation\.temperature=0 .* generation\.top_k=5 .* generation\.temperature above 0, or "
            r"generation\.top_k=0$",
        ),
        (
            lambda: composed("generation=sampling", "generation.temperature=0"),
            "no_effect",
            r"^generation\.temperature=0 .* generation\.top_p=0\.9 and generation\.top_k=50 .* "
            r"generation\.temperature above 0, or generation\.top_p=1 and generation\.top_k=0$",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_both_named(build: Any, code: Code, message: str) -> None:
    with raises(ConfigError, code) as refused:
        build()
    assert re.search(message, str(refused.value))


def test_merge_into_quantized_weights_is_refused() -> None:
    with raises(ConfigError, "missing"):
        composed("quantization=nf4", "lora=embedded", "lora.merge=true")


def test_a_repeat_counts_only_if_it_is_one(make_config: Any) -> None:
    """So the jobs that were recorded before the key was there keep their ids."""
    assert dict(iterate_job_id_keys(make_config(task=Gsm8kConfig(repeat_index=2))))["task.repeat"] == 2


def test_a_kv_cache_counts_only_in_another_format(make_config: Any) -> None:
    """So the jobs that were recorded before the key was there keep their ids."""
    plain, eight = (make_config(generation=GenerationConfig(kv_cache=one)) for one in ("as_model", "int8"))
    assert set(iterate_job_id_keys(eight)) - set(iterate_job_id_keys(plain)) == {
        ("generation.kv_cache", "int8")
    }
    assert set(iterate_job_id_keys(plain)) <= set(iterate_job_id_keys(eight))


INT8_KV = GenerationConfig(kv_cache="int8")


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (
            LocalModelConfig(name="x", attention=Attention.sdpa),
            ("model.attention=sdpa does not support continuous batching"),
        )
    ],
)
def test_a_kv_cache_in_8_bits_needs_the_scheduler(make_config: Any, model: Any, why: str) -> None:
    with raises(ConfigError, "unsupported", "generation.kv_cache"):
        make_config(model=model, generation=INT8_KV)


def test_inert_keys_have_a_reason_and_the_rest_counts(make_config: Any) -> None:
    config = make_config(model=LocalModelConfig(name="x"), task=Gsm8kConfig(), lora=PeftConfig(path="y"))
    counted = dict(iterate_job_id_keys(config))
    everything, reasons = _keys(config, "", {})
    choices = {f"{group}.name" for group in ("quantization", "lora", "rope", "generation", "task")}
    assert set(counted) == (everything | choices) - set(reasons) - {
        "task.repeat_index",
        "generation.kv_cache",
        "generation.thinking_end",
        "generation.thinking_tags",
        "generation.thinking_tokens",
        "quantization.skip",
        "quantization.overrides",
        "rope.beyond_trained",
        "lora.merge_order",
        "lora.merge_dtype",
        "task.scorer",
        "metrics",
    }
    assert all(len(why) > 10 for why in reasons.values())
    inert = {
        "model.name",
        "model.shape",
        "model.random_weights",
        "model.check_memory",
        "quantization.allow_partial",
        "model.revision",
        "model.cache_dir",
        "lora.path",
        "lora.revision",
        "task.data",
        "task.question_key",
        "task.answer_key",
        "task.subset",
        "task.choices_key",
        "task.answer_type",
        "task.answer_marker",
        "task.cluster",
        "task.shots_split",
        "task.shuffle_seed",
        "task.choices_seed",
        "task.rotate",
        "task.offset",
        "task.only",
        "task.unscored",
        "task.shots_data",
        "task.show_prompt",
        "task.early_stop_vs",
        "task.early_stop_margin",
        "task.early_stop_comparisons",
    }
    inert |= {
        "generation.prompt_cache_mib",
        "generation.speculate",
        "profile",
        "notes",
        "output_dir",
        "print",
        "plan",
        "rerun",
        "workers",
        "job_timeout_s",
        "price_kwh",
        "trackers",
        "tracking",
        "gate",
    }
    assert set(reasons) == inert


def _keys(config: Any, prefix: str, reasons: dict[str, str]) -> tuple[set[str], dict[str, str]]:
    names = set()
    for item in fields(config):
        key, value = f"{prefix}{item.name}", getattr(config, item.name)
        if isinstance(counts := get_identity_rule(item), NotInIdentity):
            reasons[key] = counts.why
            names.add(key)
        elif is_dataclass(value):
            names |= _keys(value, f"{key}.", reasons)[0]
        else:
            names.add(key)
    return names, reasons


def test_none_choices_are_plain_base_classes() -> None:
    config = composed()
    assert type(config.quantization) is QuantizationConfig
    assert type(config.lora) is LoraConfig
    assert type(config.rope) is RopeConfig

"""Root config of a job: a choice for every config group, top-level keys, tracking, and the keys of
the job id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any, ClassVar

from runner.config.gate import GateConfig
from runner.config.profiles import NONE as NO_PROFILE
from runner.config.profiles import check_profile_fits_model
from runner.config.task import TaskConfig
from runner.config.user_notes import check_notes
from runner_base import (
    MISSING,
    ConfigError,
    NotInIdentity,
    at_least,
    check_config_values,
    check_value,
    config_field,
    not_blank,
)
from runner_base.fields import (
    DefaultCountsAs,
    InIdentityUnless,
    get_choice_name,
    get_default,
    get_identity_name,
    get_identity_rule,
    get_value_omitted_from_job_id,
)
from runner_base.known_secrets import find_leaked_variable
from runner_base.renamed_keys import LAYER_CHOICES, RENAMED_KEYS
from runner_base.texts import is_encodable
from runner_engine import GenerationConfig, LoraConfig, ModelConfig, QuantizationConfig, RopeConfig


class PrintMode(StrEnum):
    """What a finished job prints on stdout."""

    table = "table"
    full = "full"  # the table with facts for experts, such as the form of the prompts
    json = "json"
    none = "none"

    @property
    def is_table(self) -> bool:
        """Whether stdout gets a human-readable table."""
        return self in (PrintMode.table, PrintMode.full)


AUTO = "auto"  # as many workers as cores, memory and GPUs allow


@dataclass
class TrackingConfig:
    """Config of the MLflow store for results. A null uri means sqlite in output_dir."""

    name: ClassVar[str] = "sqlite"
    uri: str | None = None
    experiment: str = config_field("runner", constraint=not_blank("give it a name"))
    parent_run_id: str | None = None  # set by a grid, so that MLflow shows its jobs below it
    traces: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        check_config_values("tracking", self)


@dataclass
class NoTrackingConfig(TrackingConfig):
    """Config of tracking=none: results are stored only on disk."""

    name: ClassVar[str] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "tracking=none logs no traces to MLflow. Omit tracking=none or tracking.traces"
        check_value(not self.traces, "tracking.traces", self.traces, need, code="conflict")


@dataclass
class RunnerConfig:
    """Config of a whole job: a choice for every config group, and the top-level keys."""

    model: ModelConfig = MISSING
    quantization: QuantizationConfig = MISSING
    lora: LoraConfig = MISSING
    rope: RopeConfig = MISSING
    generation: GenerationConfig = MISSING
    # before task: its errors name the keys that the user has set
    gate: GateConfig = field(
        default_factory=GateConfig,
        metadata={"counts": NotInIdentity("keys of early stopping count, and the gate runs after the jobs")},
    )
    task: TaskConfig = MISSING
    tracking: TrackingConfig = config_field(
        MISSING, NotInIdentity("tracking selects where results are logged, and does not change the results")
    )
    trackers: list[str] = field(
        default_factory=list,
        metadata={"counts": NotInIdentity("trackers receive the results, and do not change them")},
    )
    profile: str = config_field(NO_PROFILE, NotInIdentity("the job id contains the keys that profile sets"))
    seed: int = 0
    metrics: list[str] = field(
        default_factory=list, metadata={"counts": InIdentityUnless(changes_answers=False)}
    )
    notes: dict[str, Any] = field(
        default_factory=dict,
        metadata={"counts": NotInIdentity("notes are comments that do not change the results")},
    )
    output_dir: str = config_field(
        "outputs",
        NotInIdentity("output_dir selects where results are stored, and does not change the results"),
    )
    print: PrintMode = config_field(
        PrintMode.table, NotInIdentity("changes the display, not the computation")
    )
    plan: bool | str = config_field(False, NotInIdentity("shows the plan and does nothing"))
    rerun: bool | str = config_field(False, NotInIdentity("asks for the same job again"))
    workers: str = config_field(AUTO, NotInIdentity("workers sets the number of processes that run a grid"))
    job_timeout_s: float | None = config_field(None, NotInIdentity("job_timeout_s only ends jobs that hang"))
    price_kwh: float | None = config_field(
        None, NotInIdentity("price_kwh changes energy costs, but not the answers", measured=True), at_least(0)
    )

    def __post_init__(self) -> None:
        check_value(0 <= self.seed < 2**63, "seed", self.seed, "must be a whole number from 0 to 2^63 - 1")
        if self.trackers:
            from runner.config.trackers import check_trackers  # few jobs have one

            check_trackers(self.trackers)
        if self.metrics:
            from runner.config.added_metrics import check_plugin_metrics  # with the table of all metrics

            check_plugin_metrics(self.metrics)
        need = (
            f"task={self.task.name} saves no samples, so no metric can be computed from them. Omit this key"
        )
        check_value(
            not self.metrics or self.task.keeps_samples, "metrics", self.metrics, need, code="unsupported"
        )
        check_value(
            self.rerun in (True, False, "failed", "all"),
            "rerun",
            self.rerun,
            "give false, failed or all (= true)",
        )
        check_value(
            self.plan in (True, False, "quick"),
            "plan",
            self.plan,
            "give true, false, or quick (runs no calibration)",
        )
        workers_ok = self.workers == AUTO or (self.workers.isdigit() and int(self.workers) >= 1)
        check_value(
            workers_ok, "workers", self.workers, f"give {AUTO}, or the number of processes (at least 1)"
        )
        timeout_ok = self.job_timeout_s is None or self.job_timeout_s > 0
        check_value(timeout_ok, "job_timeout_s", self.job_timeout_s, "must be more than 0 seconds, or null")
        check_notes(self.notes)
        for key, text in _iterate_texts(self, ""):
            need = "must not contain NUL or an unpaired surrogate, which file names do not allow"
            check_value(is_encodable(text) and "\0" not in text, key, repr(text), need)
            if key != "tracking.uri":  # it is recorded without its secrets
                reject_secret(key, text)
        # the engine's part of it, which composing does not need
        from runner.config.mix_choices import build_quantization_mix

        # no key: what the group means for each layer, read once
        self.mix = build_quantization_mix(self.quantization)
        check_profile_fits_model(self.profile, self.model, self.quantization.label)
        self.model.check_compatibility(self.quantization, self.lora, self.rope, self.generation)
        self.task.check_generation(self.generation)
        self.lora.check_adapter_names(self.task.name, self.task.named_adapters)
        self.lora.check_merge_settings(self.mix)


def _iterate_texts(value: object, key: str) -> Iterator[tuple[str, str]]:
    """Yield every string in a config with its full key, including strings in lists and mappings."""
    if isinstance(value, str):
        yield key, value
    elif is_dataclass(value):
        for item in fields(value):
            yield from _iterate_texts(getattr(value, item.name), f"{key}.{item.name}" if key else item.name)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _iterate_texts(name, key)
            yield from _iterate_texts(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _iterate_texts(inner, key)


def reject_secret(key: str, value: str) -> None:
    """Raise ConfigError if a value contains a secret from the environment, because config values are
    recorded.
    """
    if variable := find_leaked_variable(value):
        raise ConfigError(
            f"the value of the environment variable {variable} would be written to the run record. Omit it",
            key=key,
            value="***",
            code="refused",
        )


def iterate_job_id_keys(config: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full key and value of every config key that is part of the job id.

    A renamed key has its old name, so that jobs of earlier versions keep their ids.
    """
    assert is_dataclass(config)
    for item in fields(config):
        counts, value = get_identity_rule(item), getattr(config, item.name)
        is_inert = isinstance(counts, NotInIdentity) and counts.excludes(value)
        if is_inert or (
            isinstance(counts, InIdentityUnless) and value == get_value_omitted_from_job_id(item)
        ):
            continue
        if isinstance(counts, DefaultCountsAs) and value == get_default(item):
            value = counts.value
        if is_dataclass(value):
            choice = get_choice_name(value)
            if choice is not None and not isinstance(
                value, ModelConfig
            ):  # its fingerprint identifies a model
                yield f"{prefix}{item.name}.name", choice
            yield from iterate_job_id_keys(value, f"{prefix}{item.name}.")
        else:
            value = _restore_old_layer_key_names(value) if f"{prefix}{item.name}" == LAYER_CHOICES else value
            yield f"{prefix}{get_identity_name(item)}", value


def _restore_old_layer_key_names(layer_choices: dict[str, Any]) -> dict[str, Any]:
    """Return quantization.overrides with the old names of the keys in its values."""
    old_names = {new: old for old, new in RENAMED_KEYS["quantization"].items()}
    return {
        pattern: {old_names.get(key, key): value for key, value in choice.items()}
        if isinstance(choice, Mapping)
        else choice
        for pattern, choice in layer_choices.items()
    }


def iterate_keys_affecting_timing(config: object, prefix: str = "") -> Iterator[str]:
    """Yield each config key that affects measured times or costs, but not the answers."""
    assert is_dataclass(config)
    for item in fields(config):
        counts, value = get_identity_rule(item), getattr(config, item.name)
        if isinstance(counts, NotInIdentity) and counts.measured:
            yield f"{prefix}{item.name}"
        elif is_dataclass(value):
            yield from iterate_keys_affecting_timing(value, f"{prefix}{item.name}.")

"""A whole job: a choice from every group and the keys above them; tracking; which keys make jobs
different."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any, ClassVar

from runner.config.own_notes import check_notes
from runner.config.profiles import NONE as NO_PROFILE
from runner.config.profiles import check_profile
from runner.config.task import TaskConfig
from runner_base import MISSING, ConfigError, Inert, check, check_keys, filled, least, setting
from runner_base.fields import DefaultAs, Unless, choice_of, counts_of, default_of, omitted_value
from runner_base.known_secrets import variable_of_secret
from runner_base.texts import is_text
from runner_engine import GenerationConfig, LoraConfig, ModelConfig, QuantizationConfig, RopeConfig


class Print(StrEnum):
    """What a job prints on stdout at its end."""

    table = "table"
    full = "full"  # the table with facts for experts, such as the form of the prompts
    json = "json"
    none = "none"

    @property
    def is_table(self) -> bool:
        """Whether people read it."""
        return self in (Print.table, Print.full)


AUTO = "auto"  # as many workers as cores, memory and GPUs allow


@dataclass
class TrackingConfig:
    """The store that results are logged to; uri null: sqlite in output_dir."""

    name: ClassVar[str] = "sqlite"
    uri: str | None = None
    experiment: str = setting("runner", takes=filled("give it a name"))
    parent_run_id: str | None = None  # set by a grid, so that MLflow shows its jobs below it
    traces: bool = False

    def __post_init__(self) -> None:
        check_keys("tracking", self)


@dataclass
class NoTrackingConfig(TrackingConfig):
    """No store: results are on disk only."""

    name: ClassVar[str] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "tracking=none logs nothing to MLflow: leave one of the two out"
        check(not self.traces, "tracking.traces", self.traces, need, code="conflict")


@dataclass
class RunnerConfig:
    """A whole job: a choice from every group and the keys above them."""

    model: ModelConfig = MISSING
    quantization: QuantizationConfig = MISSING
    lora: LoraConfig = MISSING
    rope: RopeConfig = MISSING
    generation: GenerationConfig = MISSING
    task: TaskConfig = MISSING
    tracking: TrackingConfig = setting(
        MISSING, Inert("names the store of the results, and changes nothing in them")
    )
    profile: str = setting(NO_PROFILE, Inert("sets groups and keys, which count themselves"))
    seed: int = 0
    metrics: list[str] = field(default_factory=list, metadata={"counts": Unless(changes_answers=False)})
    notes: dict[str, Any] = field(
        default_factory=dict,
        metadata={"counts": Inert("the user's own words about a job, which change nothing in it")},
    )
    output_dir: str = setting(
        "outputs", Inert("names the folder of the results, and changes nothing in them")
    )
    print: Print = setting(Print.table, Inert("changes the display, not the computation"))
    plan: bool | str = setting(False, Inert("shows the plan and does nothing"))
    rerun: bool | str = setting(False, Inert("asks for the same job again"))
    workers: str = setting(AUTO, Inert("how many processes share a grid's jobs"))
    job_timeout_s: float | None = setting(None, Inert("ends a job of a grid that hangs"))
    price_kwh: float | None = setting(
        None, Inert("prices the energy, and changes no answer", measured=True), least(0)
    )

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**63, "seed", self.seed, "must be a whole number from 0 to 2^63 - 1")
        if self.metrics:
            from runner.config.added_metrics import check_added  # with the table of all metrics

            check_added(self.metrics)
        need = f"task={self.task.name} keeps no samples that a metric could be computed from: leave it out"
        check(not self.metrics or self.task.keeps_samples, "metrics", self.metrics, need, code="unsupported")
        check(
            self.rerun in (True, False, "failed", "all"),
            "rerun",
            self.rerun,
            "use false, failed or all (= true)",
        )
        check(
            self.plan in (True, False, "quick"),
            "plan",
            self.plan,
            "use true, false, or quick (calibrates nothing)",
        )
        workers_ok = self.workers == AUTO or (self.workers.isdigit() and int(self.workers) >= 1)
        check(workers_ok, "workers", self.workers, f"use {AUTO}, or a number from 1")
        timeout_ok = self.job_timeout_s is None or self.job_timeout_s > 0
        check(timeout_ok, "job_timeout_s", self.job_timeout_s, "must be more than 0 seconds, or null")
        check_notes(self.notes)
        for key, text in _texts(self, ""):
            need = "contains what no UTF-8 text and no file name can contain: half a character, or a NUL"
            check(is_text(text) and "\0" not in text, key, repr(text), need)
            if key != "tracking.uri":  # it is recorded without its secrets
                refuse_secret(key, text)
        # the engine's part of it, which composing does not need
        from runner.config.mix_choices import mix_of

        # no key: what the group means for each layer, read once
        self.mix = mix_of(self.quantization)
        check_profile(self.profile, self.model, self.quantization.label)
        self.model.check_beside(self.quantization, self.lora, self.rope, self.generation)
        self.task.check_beside(self.generation)
        self.lora.check_named(self.task.name, self.task.adapters_named)
        self.lora.check_merging(self.mix)


def _texts(value: object, key: str) -> Iterator[tuple[str, str]]:
    """Yield every text of a config with its full key, also those in lists and mappings."""
    if isinstance(value, str):
        yield key, value
    elif is_dataclass(value):
        for item in fields(value):
            yield from _texts(getattr(value, item.name), f"{key}.{item.name}" if key else item.name)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(name, key)
            yield from _texts(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)


def refuse_secret(key: str, text: str) -> None:
    """Raise ConfigError if a value has a secret of the environment in it: it would be recorded."""
    if variable := variable_of_secret(text):
        raise ConfigError(
            f"the value of the environment variable {variable} would be recorded. Leave it out",
            key=key,
            value="***",
            code="refused",
        )


def semantic_keys(config: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (full key, value) for every key that counts in the job's identity."""
    assert is_dataclass(config)
    for item in fields(config):
        counts, value = counts_of(item), getattr(config, item.name)
        is_inert = isinstance(counts, Inert) and counts.covers(value)
        if is_inert or (isinstance(counts, Unless) and value == omitted_value(item)):
            continue
        if isinstance(counts, DefaultAs) and value == default_of(item):
            value = counts.value
        if is_dataclass(value):
            choice = choice_of(value)
            if choice is not None and not isinstance(
                value, ModelConfig
            ):  # its fingerprint identifies a model
                yield f"{prefix}{item.name}.name", choice
            yield from semantic_keys(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value


def measured_keys(config: object, prefix: str = "") -> Iterator[str]:
    """Yield every key that changes no answer but changes measured times or costs."""
    assert is_dataclass(config)
    for item in fields(config):
        counts, value = counts_of(item), getattr(config, item.name)
        if isinstance(counts, Inert) and counts.measured:
            yield f"{prefix}{item.name}"
        elif is_dataclass(value):
            yield from measured_keys(value, f"{prefix}{item.name}.")

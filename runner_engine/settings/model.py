"""Config group `model`: a local model's location, device, dtype and attention."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar

from runner_base import (
    HASHED,
    MISSING,
    ConfigError,
    Dtype,
    NotInIdentity,
    check_config_values,
    check_value,
    config_field,
    in_range,
    not_blank,
)
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.settings.generation import GenerationConfig, reject_scheduler_only_settings
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.rope import RopeConfig

MAX_THREADS = 4096  # more than a machine has cores
# arguments of a chat template that the runner itself sets
TEMPLATE_ARGUMENTS_OF_RUNNER = ("messages", "conversation", "tokenize", "add_generation_prompt")


class Attention(StrEnum):
    """The attention implementation. `auto` is the scheduler's own attention, or else transformers'
    default.
    """

    auto = "auto"
    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


@dataclass
class ModelConfig:
    """Common config keys of all kinds of models."""

    module: ClassVar[str]  # describes a kind of model that a caller has besides those of the engine
    key: ClassVar[str] = "model"  # the prefix of these keys
    has_weights: ClassVar[bool] = False  # on this machine: its own, or those of the local model within it
    local_part: ClassVar[str | None] = None  # the key of the local model within it, if it has one
    is_on_server: ClassVar[bool] = False  # nothing of it is on this machine
    publishes_settings: ClassVar[bool] = (
        False  # its files are read here, and may say how its answers are drawn
    )

    def __post_init__(self) -> None:
        check_config_values(self.key, self)

    @property
    def name(self) -> str:
        """Name of the model. Some model choices have a fixed name."""
        raise NotImplementedError

    def check_compatibility(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Raise ConfigError if this model choice does not support a setting of another config group."""


@dataclass
class LocalModelConfig(ModelConfig):
    """A causal language model on this machine: the embedded model, a local folder or a hub id."""

    name: str = config_field(MISSING, HASHED, not_blank("must be a folder or a hub ID"))
    revision: str | None = config_field(None, HASHED)
    cache_dir: str | None = config_field(None, HASHED)
    device: str = "auto"
    dtype: Dtype = Dtype.auto
    attention: Attention = Attention.auto
    device_map: str | None = None
    max_memory: Any = None  # {place: size}; OmegaConf has no type for keys that are numbers or words
    threads: int | None = config_field(
        None, constraint=in_range(1, MAX_THREADS, f"must lie in 1..{MAX_THREADS:,}, or be null")
    )
    shape: str | None = config_field(None, HASHED)
    random_weights: bool = config_field(
        False, NotInIdentity("the recipe of the random weights and the shape are hashed instead")
    )
    trust_remote_code: bool = False
    # variables of its chat template
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    check_memory: bool = config_field(True, NotInIdentity("only rejects models that do not fit in memory"))

    has_weights: ClassVar[bool] = True
    publishes_settings: ClassVar[bool] = True
    asks_hub: ClassVar[bool] = True

    def check_compatibility(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Raise ConfigError if model.attention is set and another setting needs the scheduler."""
        if self.attention is not Attention.auto:
            why = f"{self.key}.attention={self.attention.value} was requested"
            reject_scheduler_only_settings(generation, why)
            lora.reject_scheduler_only_settings(why)

    def __post_init__(self) -> None:
        super().__post_init__()
        prefix = self.key
        kind, _, index = self.device.partition(":")
        no_metal = (
            "the local engine does not support Metal. Use model=llama_cpp model.name=FILE.gguf for Apple's "
            f"GPUs, or {prefix}.device=cpu"
        )
        check_value(kind != "mps", f"{prefix}.device", self.device, no_metal, "unsupported")
        known = kind in ("auto", "cpu", "cuda") and (not index or (kind == "cuda" and index.isdigit()))
        check_value(
            known, f"{prefix}.device", self.device, "must be auto, cpu, cuda or cuda:N", "unknown_choice"
        )
        for name in self.chat_template_kwargs:
            is_valid = name not in TEMPLATE_ARGUMENTS_OF_RUNNER and name.isidentifier()
            need = "must be a variable of the chat template, such as enable_thinking"
            check_value(is_valid, f"{prefix}.chat_template_kwargs", name, need)
        spread, sizes = self.device_map, self.max_memory
        check_value(
            spread in (None, "auto"),
            f"{prefix}.device_map",
            spread,
            "must be auto, or null for one device",
            "unknown_choice",
        )
        check_value(
            sizes is None or isinstance(sizes, dict),
            f"{prefix}.max_memory",
            sizes,
            "must have the form {0: 3GB, cpu: 8GB}",
        )
        self.max_memory = {str(place): str(size) for place, size in (sizes or {}).items()} or None
        for place, size in (self.max_memory or {}).items():
            key, is_size = (
                f"{prefix}.max_memory.{place}",
                re.fullmatch(r"\d+(\.\d+)?[KMG]i?B", size) is not None,
            )
            check_value(place == "cpu" or place.isdigit(), key, size, "the key must be a GPU index, or cpu")
            check_value(is_size, key, size, "must be a size such as 3GB or 800MiB")
        if self.max_memory and self.device_map is None:
            raise ConfigError(
                f"{prefix}.max_memory needs {prefix}.device_map=auto, which spreads the model over devices",
                code="missing",
            )
        if self.device_map == "auto" and self.device != "auto":
            raise ConfigError(
                f"{prefix}.device_map=auto conflicts with {prefix}.device={self.device}. Omit one of them",
                code="conflict",
            )


@dataclass
class LocalConfig(LocalModelConfig):
    """A model folder or .gguf file on this machine. Its name is never treated as a hub id."""

    asks_hub: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "only hub models have revisions. Omit this key, or use model=auto"
        check_value(self.revision is None, "model.revision", self.revision, need, "unsupported")
        check_value(
            not self.random_weights,
            "model.random_weights",
            self.random_weights,
            "model=local always loads the stored weights",
            "unsupported",
        )


def to_local_model_config(model: ModelConfig) -> LocalModelConfig:
    """Convert a model's config to a local model's config. Missing keys get defaults."""
    if model.local_part is not None:
        within: LocalModelConfig = getattr(model, model.local_part)
        return within
    if isinstance(model, LocalModelConfig):
        return model
    shared = {item.name for item in fields(model)} & {item.name for item in fields(LocalModelConfig)}
    return LocalModelConfig(**{"name": model.name} | {name: getattr(model, name) for name in shared})


def reject_weight_changes(
    quantization: QuantizationConfig, lora: LoraConfig, rope: RopeConfig, reason: str
) -> None:
    for group, choice, plain in (
        ("quantization", quantization.label, "none"),
        ("lora", lora.name, "none"),
        ("rope", rope.name, "native"),
    ):
        check_value(choice == plain, group, choice, f"{reason}: use {group}={plain}", "unsupported")
    check_value(
        not rope.beyond_trained, "rope.beyond_trained", True, f"{reason}: leave the key out", "unsupported"
    )

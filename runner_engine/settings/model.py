"""model – a model on this machine: where it is, and its device, dtype and attention."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar

from runner_base import HASHED, MISSING, ConfigError, Dtype, Inert, check, check_keys, filled, setting, within
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.settings.generation import GenerationConfig, require_no_scheduler
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.rope import RopeConfig

MAX_THREADS = 4096  # more than a machine has cores
# arguments of a chat template that the runner itself sets
TEMPLATE_ARGUMENTS_OF_RUNNER = ("messages", "conversation", "tokenize", "add_generation_prompt")


class Attention(StrEnum):
    """Attention implementation; auto: the one that transformers picks."""

    auto = "auto"
    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


@dataclass
class ModelConfig:
    """The keys of every kind of model."""

    module: ClassVar[str]  # describes a kind of model that a caller has besides those of the engine
    key: ClassVar[str] = "model"  # the prefix of these keys
    has_weights: ClassVar[bool] = False  # on this machine: its own, or those of the local model within it
    local_part: ClassVar[str | None] = None  # the key of the local model within it, if it has one
    is_on_server: ClassVar[bool] = False  # nothing of it is on this machine
    publishes_settings: ClassVar[bool] = (
        False  # its files are read here, and may say how its answers are drawn
    )

    def __post_init__(self) -> None:
        check_keys(self.key, self)

    @property
    def name(self) -> str:
        """Return which model it is: a key for most kinds, a fixed name for the others."""
        raise NotImplementedError

    def check_beside(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Reject settings of other groups that this kind of model does not support."""


@dataclass
class LocalModelConfig(ModelConfig):
    """A causal language model that runs on this machine: the embedded one, a local folder or a hub
    id."""

    name: str = setting(MISSING, HASHED, filled("give a folder or a hub id"))
    revision: str | None = setting(None, HASHED)
    cache_dir: str | None = setting(None, HASHED)
    device: str = "auto"
    dtype: Dtype = Dtype.auto
    attention: Attention = Attention.auto
    device_map: str | None = None
    max_memory: Any = None  # {place: size}; OmegaConf has no type for keys that are numbers or words
    threads: int | None = setting(
        None, takes=within(1, MAX_THREADS, f"must lie in 1..{MAX_THREADS:,}, or be null")
    )
    shape: str | None = setting(None, HASHED)
    random_weights: bool = setting(False, Inert("the recipe of the noise and the shape are hashed instead"))
    trust_remote_code: bool = False
    # variables of its chat template
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    check_memory: bool = setting(True, Inert("rejects a model that would not fit"))

    has_weights: ClassVar[bool] = True
    publishes_settings: ClassVar[bool] = True
    asks_hub: ClassVar[bool] = True

    def check_beside(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Reject a KV cache in 8 bits beside an attention that reads transformers' own cache."""
        if self.attention is not Attention.auto:
            why = f"{self.key}.attention={self.attention.value} was requested"
            require_no_scheduler(generation, why)
            lora.require_no_scheduler(why)

    def __post_init__(self) -> None:
        super().__post_init__()
        prefix = self.key
        kind, _, index = self.device.partition(":")
        no_metal = (
            "the engine has no Metal: use model=llama_cpp model.name=FILE.gguf, which computes on Apple's GPUs, or "
            f"{prefix}.device=cpu"
        )
        check(kind != "mps", f"{prefix}.device", self.device, no_metal, "unsupported")
        known = kind in ("auto", "cpu", "cuda") and (not index or (kind == "cuda" and index.isdigit()))
        check(known, f"{prefix}.device", self.device, "use auto, cpu, cuda or cuda:N", "unknown_choice")
        for name in self.chat_template_kwargs:
            is_valid = name not in TEMPLATE_ARGUMENTS_OF_RUNNER and name.isidentifier()
            need = "give names that the chat template reads, e.g. enable_thinking"
            check(is_valid, f"{prefix}.chat_template_kwargs", name, need)
        spread, sizes = self.device_map, self.max_memory
        check(
            spread in (None, "auto"),
            f"{prefix}.device_map",
            spread,
            "use auto, or null for one device",
            "unknown_choice",
        )
        check(
            sizes is None or isinstance(sizes, dict), f"{prefix}.max_memory", sizes, "give {0: 3GB, cpu: 8GB}"
        )
        self.max_memory = {str(place): str(size) for place, size in (sizes or {}).items()} or None
        for place, size in (self.max_memory or {}).items():
            key, is_size = (
                f"{prefix}.max_memory.{place}",
                re.fullmatch(r"\d+(\.\d+)?[KMG]i?B", size) is not None,
            )
            check(place == "cpu" or place.isdigit(), key, size, "name a place: a GPU's number, or cpu")
            check(is_size, key, size, "give a size such as 3GB or 800MiB")
        if self.max_memory and self.device_map is None:
            raise ConfigError(
                f"{prefix}.max_memory needs {prefix}.device_map=auto, which spreads the model over devices",
                code="missing",
            )
        if self.device_map == "auto" and self.device != "auto":
            raise ConfigError(
                f"{prefix}.device_map=auto with {prefix}.device={self.device}: give one of the two",
                code="conflict",
            )


@dataclass
class LocalConfig(LocalModelConfig):
    """A folder or a .gguf file on this machine; it is never taken for a hub id, and nothing is
    downloaded."""

    asks_hub: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "only a hub has revisions: leave it out, or use model=auto"
        check(self.revision is None, "model.revision", self.revision, need, "unsupported")
        check(
            not self.random_weights,
            "model.random_weights",
            self.random_weights,
            "a local model has its own weights",
            "unsupported",
        )


def local_model(model: ModelConfig) -> LocalModelConfig:
    """Return the keys of a local model, with defaults for those that this kind does not have."""
    if model.local_part is not None:
        within: LocalModelConfig = getattr(model, model.local_part)
        return within
    if isinstance(model, LocalModelConfig):
        return model
    shared = {item.name for item in fields(model)} & {item.name for item in fields(LocalModelConfig)}
    return LocalModelConfig(**{"name": model.name} | {name: getattr(model, name) for name in shared})


def require_own_weights(
    quantization: QuantizationConfig, lora: LoraConfig, rope: RopeConfig, why: str
) -> None:
    """Reject settings that would change the weights of a model that takes none of them."""
    for group, choice, plain in (
        ("quantization", quantization.label, "none"),
        ("lora", lora.name, "none"),
        ("rope", rope.name, "native"),
    ):
        check(choice == plain, group, choice, f"{why}: use {group}={plain}", "unsupported")
    check(not rope.beyond_trained, "rope.beyond_trained", True, f"{why}: leave the key out", "unsupported")

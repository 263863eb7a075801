"""model – the model, and its device, dtype and attention."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from runner.core.dtypes import Dtype
from runner.core.errors import ConfigError, check, check_least, check_not_blank
from runner.core.fields import HASHED, MISSING, inert

PUT_BY_RUNNER = ("messages", "conversation", "tokenize", "add_generation_prompt")  # of a chat template


class Attention(StrEnum):
    """Attention implementation; auto: the one that transformers picks."""

    auto = "auto"
    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


@dataclass
class ModelConfig:
    """What every kind of model has."""

    module: ClassVar[str]  # describes the kind; a string, so that a job imports its own kind only
    name: str = inert(MISSING, HASHED)


@dataclass
class LocalModelConfig(ModelConfig):
    """A causal language model that runs on this machine: the embedded one, a local folder or a hub id."""

    module: ClassVar[str] = "runner.engines.kinds.local"
    revision: str | None = inert(None, HASHED)
    cache_dir: str | None = inert(None, HASHED)
    device: str = "auto"
    dtype: Dtype = Dtype.auto
    attention: Attention = Attention.auto
    device_map: str | None = None
    max_memory: Any = None  # {place: size}; OmegaConf has no type for keys that are numbers or words
    threads: int | None = None
    shape: str | None = inert(None, HASHED)
    random_weights: bool = inert(False, "the recipe of the noise and the shape are hashed instead")
    trust_remote_code: bool = False
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)  # what its chat template reads by these names
    check_memory: bool = inert(True, "refuses a model that would not fit, and changes nothing in one that does")

    asks_hub: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_least(1, "model.threads", self.threads, ", or null")
        kind, _, index = self.device.partition(":")
        known = kind in ("auto", "cpu", "cuda") and (not index or (kind == "cuda" and index.isdigit()))
        check(known, "model.device", self.device, "use auto, cpu, cuda or cuda:N")
        check_not_blank("model.name", self.name, "give a folder or a hub id")
        for name in self.chat_template_kwargs:
            own, need = name not in PUT_BY_RUNNER and name.isidentifier(), "give names that the chat template reads"
            check(own, "model.chat_template_kwargs", name, f"{need}, e.g. enable_thinking")
        spread, sizes = self.device_map, self.max_memory
        check(spread in (None, "auto"), "model.device_map", spread, "use auto, or null for one device")
        check(sizes is None or isinstance(sizes, dict), "model.max_memory", sizes, "give {0: 3GB, cpu: 8GB}")
        self.max_memory = {str(place): str(size) for place, size in (sizes or {}).items()} or None
        for place, size in (self.max_memory or {}).items():
            key, is_size = f"model.max_memory.{place}", re.fullmatch(r"\d+(\.\d+)?[KMG]i?B", size) is not None
            check(place == "cpu" or place.isdigit(), key, size, "name a place: a GPU's number, or cpu")
            check(is_size, key, size, "give a size such as 3GB or 800MiB")
        if self.max_memory and self.device_map is None:
            raise ConfigError("model.max_memory needs model.device_map=auto, which spreads the model over devices")
        if self.device_map == "auto" and self.device != "auto":
            raise ConfigError(f"model.device_map=auto with model.device={self.device}: give one of the two")


@dataclass
class LocalConfig(LocalModelConfig):
    """A folder or a .gguf file on this machine: never taken for a hub id, never looked for in the network."""

    asks_hub: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "only a hub has revisions: leave it out, or use model=auto"
        check(self.revision is None, "model.revision", self.revision, need)
        check(not self.random_weights, "model.random_weights", self.random_weights, "a local model has its own weights")


@dataclass
class StubConfig(ModelConfig):
    """No weights: echoes the head of the prompt, to try out whole grids in seconds."""

    module: ClassVar[str] = "runner.engines.kinds.stub"
    name: str = inert("stub", HASHED)
    delay_s: float = inert(0.0, "only slows the stub down")

    def __post_init__(self) -> None:
        check(self.delay_s >= 0, "model.delay_s", self.delay_s, "must be 0 or more seconds")


# every kind of model, by the name of its schema
MODELS: dict[str, type[ModelConfig]] = {
    "model": LocalModelConfig,
    "local": LocalConfig,
    "stub": StubConfig,
}


def local_model(model: ModelConfig) -> LocalModelConfig:
    """Return the keys of a local model; their defaults stand in for a kind that has none."""
    return model if isinstance(model, LocalModelConfig) else LocalModelConfig(model.name)

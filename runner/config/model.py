"""model – the model, and its device, dtype and attention."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar
from urllib.parse import urlsplit

from runner.config.generation import PLAIN, GenerationConfig
from runner.config.lora import LoraConfig
from runner.config.rope import RopeConfig
from runner.core.dtypes import Dtype
from runner.core.errors import ConfigError, check, check_least, check_not_blank
from runner.core.fields import HASHED, MISSING, inert
from runner.core.uris import HIDDEN
from runner.quantization.base import QuantizationConfig

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
    key: ClassVar[str] = "model"  # where these keys stand
    name: str = inert(MISSING, HASHED)

    def check_beside(
        self, quantization: QuantizationConfig, lora: LoraConfig, rope: RopeConfig, generation: GenerationConfig
    ) -> None:
        """Refuse what the other groups ask for and this kind of model cannot do."""


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
        mine = self.key
        check_least(1, f"{mine}.threads", self.threads, ", or null")
        kind, _, index = self.device.partition(":")
        known = kind in ("auto", "cpu", "cuda") and (not index or (kind == "cuda" and index.isdigit()))
        check(known, f"{mine}.device", self.device, "use auto, cpu, cuda or cuda:N")
        check_not_blank(f"{mine}.name", self.name, "give a folder or a hub id")
        for name in self.chat_template_kwargs:
            own, need = name not in PUT_BY_RUNNER and name.isidentifier(), "give names that the chat template reads"
            check(own, f"{mine}.chat_template_kwargs", name, f"{need}, e.g. enable_thinking")
        spread, sizes = self.device_map, self.max_memory
        check(spread in (None, "auto"), f"{mine}.device_map", spread, "use auto, or null for one device")
        check(sizes is None or isinstance(sizes, dict), f"{mine}.max_memory", sizes, "give {0: 3GB, cpu: 8GB}")
        self.max_memory = {str(place): str(size) for place, size in (sizes or {}).items()} or None
        for place, size in (self.max_memory or {}).items():
            key, is_size = f"{mine}.max_memory.{place}", re.fullmatch(r"\d+(\.\d+)?[KMG]i?B", size) is not None
            check(place == "cpu" or place.isdigit(), key, size, "name a place: a GPU's number, or cpu")
            check(is_size, key, size, "give a size such as 3GB or 800MiB")
        if self.max_memory and self.device_map is None:
            raise ConfigError(f"{mine}.max_memory needs {mine}.device_map=auto, which spreads the model over devices")
        if self.device_map == "auto" and self.device != "auto":
            raise ConfigError(f"{mine}.device_map=auto with {mine}.device={self.device}: give one of the two")


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


class Extensions(StrEnum):
    """What a server takes besides OpenAI's own keys: nothing, or top_k, repetition_penalty and ignore_eos."""

    openai = "openai"
    vllm = "vllm"


KEY_VARIABLES = ("API_KEY", "OPENAI_API_KEY")  # in this order, where no other one is named


@dataclass
class ApiConfig(ModelConfig):
    """A model behind OpenAI's API: OpenAI's own, `vllm serve`, or task=serve, here or elsewhere."""

    module: ClassVar[str] = "runner.engines.kinds.api"
    name: str = ""
    base_url: str = ""
    extensions: Extensions = Extensions.openai
    key_variable: str = inert(KEY_VARIABLES[0], "names the variable with the server's key, which changes no answer")
    concurrency: int = inert(8, "how many requests are on their way at once")
    retries: int = inert(6, "how often a request is put again that got no answer")
    backoff_s: float = inert(0.5, "how long to wait before a request is put again")
    connect_s: float = inert(10.0, "ends a connection that does not come about")
    first_token_s: float = inert(120.0, "ends a request that the server is silent on")
    answer_s: float = inert(600.0, "ends an answer that does not come to its end")
    price_in: float | None = inert(None, "what a million prompt tokens cost")
    price_out: float | None = inert(None, "what a million new tokens cost")

    def __post_init__(self) -> None:
        key = self.key
        if not self.base_url.strip() or not self.name.strip():
            who = "model=api" if key == "model" else key
            raise ConfigError(
                f"{who} needs the server's address, {key}.base_url=http://HOST:PORT/v1, and a model that it has, "
                f"{key}.name=NAME; the server's key is taken from the environment or .env: {KEY_VARIABLES[0]}=..."
            )
        self.base_url = self.base_url.rstrip("/")
        _check_base_url(f"{key}.base_url", self.base_url)
        named = re.fullmatch(r"[A-Za-z_]\w*", self.key_variable, re.ASCII) is not None
        need = "give the name of an environment variable; the key itself never stands in the config"
        check(named, f"{key}.key_variable", "***" if not named else self.key_variable, need)
        check_least(1, f"{key}.concurrency", self.concurrency)
        check_least(0, f"{key}.retries", self.retries)
        for name in ("backoff_s", "connect_s", "first_token_s", "answer_s"):
            seconds = getattr(self, name)
            check(seconds > 0, f"{key}.{name}", seconds, "must be more than 0 seconds")
        for name in ("price_in", "price_out"):
            check_least(0, f"{key}.{name}", getattr(self, name), ", or null where nothing is counted")
        need = "give both prices or none: a cost without one of them would be too low"
        check((self.price_in is None) == (self.price_out is None), f"{key}.price_out", self.price_out, need)

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine, where it may do without a key."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def cannot_say(self, owner: str, sampling: object) -> str | None:
        """Say which setting of how tokens are drawn the server's API has no word for, and what to do."""
        if self.extensions is Extensions.vllm:
            return None
        asked = {name: getattr(sampling, name) for name in ("top_k", "repetition_penalty")}
        asked = {name: value for name, value in asked.items() if value not in (None, PLAIN[name])}
        if not asked:
            return None
        words = " and ".join(f"{owner}.{name}={value}" for name, value in asked.items())
        fix = " ".join(f"{owner}.{name}=null" for name in asked)
        return (
            f"{words}: OpenAI's API has no word for it. Use {fix}, or {self.key}.extensions=vllm where the server "
            "takes it besides (vLLM does, and task=serve)"
        )

    def check_beside(
        self, quantization: QuantizationConfig, lora: LoraConfig, rope: RopeConfig, generation: GenerationConfig
    ) -> None:
        """Refuse what would have to be done to the weights, which are the server's."""
        for group, name, plain in (
            ("quantization", quantization.name, "none"), ("lora", lora.name, "none"), ("rope", rope.name, "native")
        ):  # fmt: skip
            need = f"model=api has no weights here, so it would do nothing: use {group}={plain}"
            check(name == plain, group, name, need)
        rows = generation.batch_size
        need = f"{self.key}.concurrency={self.concurrency} lets no more requests be on their way at once"
        check(rows is None or rows <= self.concurrency, "generation.batch_size", rows, need)
        if (problem := self.cannot_say("generation", generation)) is not None:
            raise ConfigError(problem)


def _check_base_url(key: str, url: str) -> None:
    """Refuse what is no address of a server, and one that holds a secret: addresses are written down."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        parts, sound = urlsplit(""), False
    bare = f"{parts.scheme}://{parts.hostname}{parts.path}" if sound and "@" not in parts.path else HIDDEN
    need = "a password, a query or a # in it would end up in configs and logs: put the server's key into API_KEY"
    check(not set("@?#") & set(url), key, bare, need)
    check(sound, key, url, "give an address such as http://127.0.0.1:8000/v1 or https://api.openai.com/v1")


@dataclass
class StudentConfig(LocalModelConfig):
    """The model on this machine that answers first, or the stub in its place."""

    key: ClassVar[str] = "model.student"
    stub: bool = False


@dataclass
class TeacherConfig(ApiConfig):
    """The model behind an API that reviews, and answers where the student does not."""

    key: ClassVar[str] = "model.teacher"


@dataclass
class HybridConfig(ModelConfig):
    """A student here, a teacher behind an API: the other groups speak of the student."""

    module: ClassVar[str] = "runner.engines.kinds.hybrid"
    name: str = inert("hybrid", HASHED)
    student: StudentConfig = MISSING
    teacher: TeacherConfig = MISSING
    rounds: int = 2
    threshold: float = 0.7
    review_tokens: int = 256

    def __post_init__(self) -> None:
        check_least(1, "model.rounds", self.rounds)
        check_least(1, "model.review_tokens", self.review_tokens)
        check(0 <= self.threshold <= 1, "model.threshold", self.threshold, "must lie in 0..1")

    def check_beside(
        self, quantization: QuantizationConfig, lora: LoraConfig, rope: RopeConfig, generation: GenerationConfig
    ) -> None:
        """Refuse what the teacher's API has no word for."""
        if (problem := self.teacher.cannot_say("generation", generation)) is not None:
            raise ConfigError(problem)


# every kind of model, by the name of its schema
MODELS: dict[str, type[ModelConfig]] = {
    "model": LocalModelConfig,
    "local": LocalConfig,
    "stub": StubConfig,
    "api": ApiConfig,
    "hybrid": HybridConfig,
}


def has_weights(model: ModelConfig) -> bool:
    """Whether a model, or its student, runs on this machine."""
    return isinstance(model, LocalModelConfig | HybridConfig)


def local_model(model: ModelConfig) -> LocalModelConfig:
    """Return the keys of a local model; their defaults stand in for a kind that has none."""
    if isinstance(model, HybridConfig):
        return model.student
    return model if isinstance(model, LocalModelConfig) else LocalModelConfig(model.name)

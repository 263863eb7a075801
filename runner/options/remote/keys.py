"""Config keys of model=api (a model on a server) and model=hybrid (a local draft model and a
fallback model on a server).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar, Self

from runner.config.model import reject_speculation
from runner.options.remote.addresses import (
    is_in_domain,
    parse_addresses,
    validate_and_simplify_server_addresses,
)
from runner.options.remote.thinking_budget import ThinkingBudget, check_thinking_budget
from runner_base import (
    MISSING,
    UNLESS_DEFAULT,
    ConfigError,
    NotInIdentity,
    at_least,
    check_value,
    config_field,
    greater_than,
    in_range,
)
from runner_base.fields import Names
from runner_engine import (
    GenerationConfig,
    LocalModelConfig,
    LoraConfig,
    ModelConfig,
    QuantizationConfig,
    RopeConfig,
)
from runner_engine.settings.generation import reject_prompt_cache_limit, reject_scheduler_only_settings
from runner_engine.settings.model import reject_weight_changes
from runner_engine.settings.sampling import SamplingKeys, get_effective_parameters


class ApiExtensions(StrEnum):
    """Sampling parameters that a server accepts beyond those of OpenAI's API.

    vllm: top_k, min_p, repetition_penalty and ignore_eos. llama_cpp: the same parameters in
    llama.cpp's spelling. auto: detected from the server's list of models.
    """

    auto = "auto"
    openai = "openai"
    vllm = "vllm"
    llama_cpp = "llama_cpp"


KEY_VARIABLE = "API_KEY"
PRICE = at_least(0, ", or null to omit costs")
OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"  # sent to OpenAI alone, unless key_variable names it


@dataclass
class ApiConfig(ModelConfig):
    """Config of model=api: a model on a server with OpenAI's API, such as OpenAI, `vllm serve` or
    task=serve.
    """

    module: ClassVar[str] = "runner.options.remote.api_kind"
    is_on_server: ClassVar[bool] = True
    name: str = ""
    base_url: Names = ""
    extensions: ApiExtensions = ApiExtensions.auto
    thinking_budget_dialect: ThinkingBudget | None = config_field(
        None, UNLESS_DEFAULT, renamed_from="thinking_budget"
    )
    tokenizer: str | None = config_field(None, NotInIdentity("a check of the server does not affect answers"))
    key_variable: str = config_field(KEY_VARIABLE, NotInIdentity("the API key does not affect answers"))
    concurrency: int = config_field(
        8, NotInIdentity("how many requests run concurrently", measured=True), at_least(1)
    )
    retries: int = config_field(6, NotInIdentity("retries do not affect answers"), at_least(0))
    backoff_s: float = config_field(
        0.5, NotInIdentity("the delay before a retry does not affect answers"), greater_than(0, " seconds")
    )
    connect_timeout_s: float = config_field(
        10.0,
        NotInIdentity("the connection timeout does not affect answers"),
        greater_than(0, " seconds"),
        renamed_from="connect_s",
    )
    first_token_timeout_s: float = config_field(
        120.0,
        NotInIdentity("the timeout for the first token does not affect answers"),
        greater_than(0, " seconds"),
        renamed_from="first_token_s",
    )
    request_timeout_s: float = config_field(
        600.0,
        NotInIdentity("a time limit does not change the answers"),
        greater_than(0, " seconds"),
        renamed_from="answer_s",
    )
    price_in: float | None = config_field(
        None, NotInIdentity("the price of prompt tokens does not affect answers", measured=True), PRICE
    )
    price_out: float | None = config_field(
        None, NotInIdentity("the price of new tokens does not affect answers", measured=True), PRICE
    )

    def __post_init__(self) -> None:
        key = self.key
        addresses = parse_addresses(f"{key}.base_url", self.base_url)
        needs = [] if addresses else [f"the server's address, {key}.base_url=http://HOST:PORT/v1"]
        who = "it" if needs else "the server"
        needs += [] if self.name.strip() else [f"a model that {who} serves, {key}.name=NAME"]
        if needs:
            raise ConfigError(
                (
                    f"{('model=api' if key == 'model' else key)} needs {', and '.join(needs)}. "
                    f"Set the API key {KEY_VARIABLE} in the environment or in .env"
                ),
                code="missing",
            )
        self.base_url = validate_and_simplify_server_addresses(f"{key}.base_url", addresses)
        is_name = re.fullmatch(r"[A-Za-z_]\w*", self.key_variable, re.ASCII) is not None
        need = "give the name of an environment variable. The key itself must never be in the config"
        check_value(is_name, f"{key}.key_variable", self.key_variable if is_name else "***", need)
        super().__post_init__()
        need = "set both price_in and price_out, or neither. A single price would give a wrong cost"
        check_value(
            (self.price_in is None) == (self.price_out is None),
            f"{key}.price_out",
            self.price_out,
            need,
            code="missing",
        )

    @property
    def single_server_configs(self) -> list[Self]:
        return [
            replace(self, base_url=address)
            for address in parse_addresses(f"{self.key}.base_url", self.base_url)
        ]

    @property
    def joined_addresses(self) -> str:
        return self.base_url if isinstance(self.base_url, str) else ", ".join(self.base_url)

    @property
    def api_key_variables(self) -> tuple[str, ...]:
        if self.key_variable == KEY_VARIABLE and self.is_hosted_at("openai.com"):
            return KEY_VARIABLE, OPENAI_KEY_VARIABLE
        return (self.key_variable,)

    def is_hosted_at(self, domain: str) -> bool:
        """Return whether all server addresses belong to a domain such as openai.com."""
        return all(
            is_in_domain(address, domain)
            for address in parse_addresses(f"{self.key}.base_url", self.base_url)
        )

    def check_sampling_fields(self, config_group: str, sampling: SamplingKeys) -> None:
        """Raise ConfigError for a sampling parameter that the server's API does not support."""
        if self.extensions is not ApiExtensions.openai:
            return
        active = get_effective_parameters(sampling, lambda parameter: not parameter.in_openai)
        unsupported = {f"{config_group}.{name}": value for name, value in active.items()}
        if not unsupported:
            return
        fix = " ".join(f"{key}=null" for key in unsupported)
        *others, last = unsupported
        raise ConfigError(
            (
                f"OpenAI's API does not support this parameter. Use {fix}. If the server is vLLM or "
                f"task=serve, use {self.key}.extensions=vllm"
            ),
            key=" and ".join([*(f"{key}={unsupported[key]}" for key in others), last]),
            value=unsupported[last],
            code="unsupported",
        )

    def check_compatibility(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Raise ConfigError for settings that change weights, which are not possible on a server."""
        why = "model=api cannot change the weights on the server"
        reject_weight_changes(quantization, lora, rope, why)
        rows = generation.batch_size
        need = (
            f"the batch size exceeds {self.key}.concurrency={self.concurrency}. Raise concurrency, "
            "or lower the batch size"
        )
        check_value(
            rows is None or rows <= self.concurrency, "generation.batch_size", rows, need, code="conflict"
        )
        self.check_sampling_fields("generation", generation)
        check_thinking_budget(self.key, self.thinking_budget_dialect, generation)
        reject_scheduler_only_settings(generation, "model=api decodes on a server")
        reject_prompt_cache_limit(generation, "model=api decodes on a server")


@dataclass
class StudentConfig(LocalModelConfig):
    """Config of the draft model with model=hybrid. `stub` replaces the model by a stub engine."""

    key: ClassVar[str] = "model.student"
    stub: bool = False


@dataclass
class TeacherConfig(ApiConfig):
    """Config of the fallback model with model=hybrid, which reviews drafts, and answers if the draft
    model fails.
    """

    key: ClassVar[str] = "model.teacher"


@dataclass
class HybridConfig(ModelConfig):
    """Config of model=hybrid: a local draft model, to which groups such as `lora` apply, and a fallback
    model on a server.
    """

    module: ClassVar[str] = "runner.options.remote.hybrid_kind"
    has_weights: ClassVar[bool] = True
    local_part: ClassVar[str | None] = "student"
    name: ClassVar[str] = "hybrid"
    student: StudentConfig = MISSING
    teacher: TeacherConfig = MISSING
    rounds: int = config_field(2, constraint=at_least(1))
    threshold: float = config_field(0.7, constraint=in_range(0, 1))
    review_tokens: int = config_field(256, constraint=at_least(1))

    def check_compatibility(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Raise ConfigError for settings that the draft model or the fallback model's API does not
        support.
        """
        self.student.check_compatibility(quantization, lora, rope, generation)
        if self.student.stub:
            reject_speculation(generation, f"{self.student.key}.stub=true has no model")
        self.teacher.check_sampling_fields("generation", generation)
        check_thinking_budget(self.teacher.key, self.teacher.thinking_budget_dialect, generation)

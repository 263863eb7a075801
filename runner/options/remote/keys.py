"""model – the keys of model=api, a model on a server, and of model=hybrid, a student here and a
teacher on a server."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar, Self

from runner.config.model import refuse_guesses
from runner.options.remote.addresses import addresses_of, check_addresses, is_in_domain
from runner.options.remote.thinking_budget import ThinkingBudget, check_budget
from runner_base import MISSING, UNLESS_DEFAULT, ConfigError, Inert, above, check, least, setting, within
from runner_base.fields import Names
from runner_engine import (
    GenerationConfig,
    LocalModelConfig,
    LoraConfig,
    ModelConfig,
    QuantizationConfig,
    RopeConfig,
)
from runner_engine.settings.generation import require_no_scheduler
from runner_engine.settings.model import require_own_weights
from runner_engine.settings.sampling import SamplingKeys, active_parameters


class Extensions(StrEnum):
    """What a server accepts besides OpenAI's own keys: nothing, or top_k, min_p, repetition_penalty
    and ignore_eos; llama_cpp: the same in llama.cpp's words.

    auto: what the server is follows from its list of models.
    """

    auto = "auto"
    openai = "openai"
    vllm = "vllm"
    llama_cpp = "llama_cpp"


KEY_VARIABLE = "API_KEY"
PRICE = least(0, ", or null if costs are not counted")
OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"  # sent to OpenAI alone, unless key_variable names it


@dataclass
class ApiConfig(ModelConfig):
    """A model behind OpenAI's API: OpenAI's own, `vllm serve`, or task=serve, here or elsewhere."""

    module: ClassVar[str] = "runner.options.remote.api_kind"
    is_on_server: ClassVar[bool] = True
    name: str = ""
    base_url: Names = ""
    extensions: Extensions = Extensions.auto
    thinking_budget: ThinkingBudget | None = setting(None, UNLESS_DEFAULT)
    key_variable: str = setting(KEY_VARIABLE, Inert("names the variable with the server's key"))
    concurrency: int = setting(8, Inert("how many requests are in flight at once", measured=True), least(1))
    retries: int = setting(6, Inert("how often a request without an answer is sent again"), least(0))
    backoff_s: float = setting(
        0.5, Inert("how long to wait before a request is sent again"), above(0, " seconds")
    )
    connect_s: float = setting(10.0, Inert("limits the time to connect"), above(0, " seconds"))
    first_token_s: float = setting(120.0, Inert("limits the time to the first token"), above(0, " seconds"))
    answer_s: float = setting(600.0, Inert("limits the time of an answer"), above(0, " seconds"))
    price_in: float | None = setting(None, Inert("what a million prompt tokens cost", measured=True), PRICE)
    price_out: float | None = setting(None, Inert("what a million new tokens cost", measured=True), PRICE)

    def __post_init__(self) -> None:
        key = self.key
        addresses = addresses_of(f"{key}.base_url", self.base_url)
        needs = [] if addresses else [f"the server's address, {key}.base_url=http://HOST:PORT/v1"]
        who = "it" if needs else "the server"
        needs += [] if self.name.strip() else [f"a model that {who} has, {key}.name=NAME"]
        if needs:
            raise ConfigError(
                f"{'model=api' if key == 'model' else key} needs {', and '.join(needs)}; "
                f"the server's key comes from the environment or .env: {KEY_VARIABLE}=...",
                code="missing",
            )
        self.base_url = check_addresses(f"{key}.base_url", addresses)
        is_name = re.fullmatch(r"[A-Za-z_]\w*", self.key_variable, re.ASCII) is not None
        need = "give the name of an environment variable; the key itself is never written in the config"
        check(is_name, f"{key}.key_variable", self.key_variable if is_name else "***", need)
        super().__post_init__()
        need = "give both prices or none: a cost without one of them would be too low"
        check(
            (self.price_in is None) == (self.price_out is None),
            f"{key}.price_out",
            self.price_out,
            need,
            code="missing",
        )

    @property
    def servers(self) -> list[Self]:
        """The same keys for each server alone."""
        return [
            replace(self, base_url=address) for address in addresses_of(f"{self.key}.base_url", self.base_url)
        ]

    @property
    def address(self) -> str:
        """The addresses of all servers, as they are shown."""
        return self.base_url if isinstance(self.base_url, str) else ", ".join(self.base_url)

    @property
    def key_variables(self) -> tuple[str, ...]:
        """The variables that may hold the server's key, in this order."""
        if self.key_variable == KEY_VARIABLE and self.is_at("openai.com"):
            return KEY_VARIABLE, OPENAI_KEY_VARIABLE
        return (self.key_variable,)

    def is_at(self, domain: str) -> bool:
        """Whether the server, or each of several, is in a domain."""
        return all(
            is_in_domain(address, domain) for address in addresses_of(f"{self.key}.base_url", self.base_url)
        )

    def check_fields(self, owner: str, sampling: SamplingKeys) -> None:
        """Raise ConfigError if the server's API is known to lack a field for a sampling parameter."""
        if self.extensions is not Extensions.openai:
            return
        active = active_parameters(sampling, lambda parameter: not parameter.in_openai)
        unsupported = {f"{owner}.{name}": value for name, value in active.items()}
        if not unsupported:
            return
        fix = " ".join(f"{key}=null" for key in unsupported)
        *others, last = unsupported
        raise ConfigError(
            f"OpenAI's API has no field for it. Use {fix}, or {self.key}.extensions=vllm if the server "
            "accepts it (vLLM and task=serve do)",
            key=" and ".join([*(f"{key}={unsupported[key]}" for key in others), last]),
            value=unsupported[last],
            code="unsupported",
        )

    def check_beside(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Reject settings that would change the weights, which are the server's."""
        why = "model=api has no weights here, so it would do nothing"
        require_own_weights(quantization, lora, rope, why)
        rows = generation.batch_size
        need = f"{self.key}.concurrency={self.concurrency} allows no more requests in flight at once"
        check(rows is None or rows <= self.concurrency, "generation.batch_size", rows, need, code="conflict")
        self.check_fields("generation", generation)
        check_budget(self.key, self.thinking_budget, generation)
        require_no_scheduler(generation, "model=api decodes on a server")


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
    """A student on this machine and a teacher behind an API; the other groups apply to the
    student."""

    module: ClassVar[str] = "runner.options.remote.hybrid_kind"
    has_weights: ClassVar[bool] = True
    local_part: ClassVar[str | None] = "student"
    name: ClassVar[str] = "hybrid"
    student: StudentConfig = MISSING
    teacher: TeacherConfig = MISSING
    rounds: int = setting(2, takes=least(1))
    threshold: float = setting(0.7, takes=within(0, 1))
    review_tokens: int = setting(256, takes=least(1))

    def check_beside(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Reject sampling parameters that the teacher's API has no field for, and what the student
        cannot do."""
        self.student.check_beside(quantization, lora, rope, generation)
        if self.student.stub:
            refuse_guesses(generation, f"{self.student.key}.stub=true has no model")
        self.teacher.check_fields("generation", generation)
        check_budget(self.teacher.key, self.teacher.thinking_budget, generation)

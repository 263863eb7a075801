"""Config group `generation`, which defines how completions are sampled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from runner_base import (
    UNLESS_DEFAULT,
    ConfigError,
    NotInIdentity,
    Text,
    at_least,
    check_config_values,
    check_value,
    config_field,
)
from runner_base.notes import Note, note
from runner_engine.render.notes import render_engine_note
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.sampling import (
    NEUTRAL,
    PARAMETERS,
    SamplingKeys,
    get_effective_parameters,
    validate_sampling,
)
from runner_engine.settings.speculation import INERT, SpeculationConfig

# Settings of a generation_config.json that are ignored here, each with the value that means off.
IGNORED_SETTINGS: dict[str, Any] = {"no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0,
    "bad_words_ids": None, "suppress_tokens": None, "begin_suppress_tokens": None, "forced_eos_token_id": None,
    "sequence_bias": None, "exponential_decay_length_penalty": None, "encoder_repetition_penalty": 1.0, "num_beams": 1,
    "typical_p": 1.0}  # fmt: skip
IGNORED_ONLY_IN_SAMPLING = ("typical_p",)


def reject_scheduler_only_settings(generation: GenerationConfig, reason: str) -> None:
    """Raise ConfigError if a setting needs the scheduler, such as a quantized KV cache."""
    if generation.speculation.drafts_every_step:
        raise ConfigError(
            "drafting tokens at every step needs the local engine with continuous batching, "
            f"but {reason}. Use generation.speculate=off",
            key="generation.speculate",
            value=generation.speculate,
            code="unsupported",
        )
    if generation.kv_cache_config != KvCache.as_model:
        raise ConfigError(
            "a quantized KV cache needs the local engine with continuous batching, "
            f"but {reason}. Use generation.kv_cache=as_model",
            key="generation.kv_cache",
            value=generation.kv_cache,
            code="unsupported",
        )


def reject_prompt_cache_limit(generation: GenerationConfig, reason: str) -> None:
    """Raise ConfigError if the engine's prompt cache is limited, but another program stores the prompts."""
    if generation.prompt_cache_mib is not None:
        raise ConfigError(
            f"only the local engine has this prompt cache, but {reason}. Use generation.prompt_cache_mib=null",
            key="generation.prompt_cache_mib",
            value=generation.prompt_cache_mib,
            code="unsupported",
        )


@dataclass(kw_only=True)
class GenerationConfig(SamplingKeys):
    """Config group `generation`: sampling settings of completions. Temperature 0 means greedy
    decoding.

    None means the value in the model's generation_config.json.
    """

    name: ClassVar[str] = "greedy"
    max_new_tokens: int = config_field(256, constraint=at_least(1))
    temperature: float | None = 0.0  # null: of generation=model alone
    batch_size: int | None = config_field(None, constraint=at_least(1, ", or null for what fits"))
    # or a mapping
    speculate: Any = config_field(
        "auto",
        NotInIdentity("the model verifies draft tokens, so answers stay equal", measured=True, only=INERT),
    )

    # or a mapping: OmegaConf has no type for a text or a mapping
    kv_cache: Any = config_field("as_model", UNLESS_DEFAULT)
    prompt_cache_mib: int | None = config_field(
        None,
        NotInIdentity("reused keys and values equal those that would be computed again", measured=True),
        at_least(0, ", or null for what free memory allows"),
    )
    thinking_tokens: int | None = config_field(
        None, UNLESS_DEFAULT, constraint=at_least(0, ", or null for no budget")
    )
    thinking_end: Text | None = config_field(None, UNLESS_DEFAULT)
    thinking_tags: list[str] = field(default_factory=list, metadata={"counts": UNLESS_DEFAULT})

    def __post_init__(self) -> None:
        self.kv_cache = str(KvCache.parse(self.kv_cache))
        self.speculate = str(SpeculationConfig.parse(self.speculate))
        check_config_values("generation", self)
        need = "must be a number. Only generation=model accepts null, which selects the model's own value"
        check_value(
            self.temperature is not None or self.name == ModelGeneration.name,
            "generation.temperature",
            None,
            need,
        )
        check_thinking_settings(self)
        validate_sampling("generation.", self)
        is_greedy = self.temperature == 0
        idle = get_effective_parameters(self, lambda parameter: not parameter.for_greedy) if is_greedy else {}
        if idle:
            words, off = (
                " and ".join(f"generation.{name}={value:g}" for name, value in values.items())
                for values in (idle, {name: NEUTRAL[name] for name in idle})
            )
            raise ConfigError(
                f"generation.temperature=0 is greedy decoding, so {words} would have no effect. "
                f"Set generation.temperature above 0, or {off}",
                code="no_effect",
            )

    @property
    def kv_cache_config(self) -> KvCache:
        """The parsed storage format of keys and values."""
        return KvCache.parse(self.kv_cache)

    @property
    def speculation(self) -> SpeculationConfig:
        """The parsed speculative decoding settings."""
        return SpeculationConfig.parse(self.speculate)

    @property
    def max_total_new_tokens(self) -> int:
        """Maximum number of new tokens in thinking and answer together."""
        return self.max_new_tokens + (self.thinking_tokens or 0)

    def apply_model_defaults(self, model_settings: Mapping[str, Any]) -> GenerationConfig:
        """Fill unset parameters with the model's generation config, or with neutral values. Greedy
        decoding stays greedy.
        """
        chosen: dict[str, Any] = {}
        for key, neutral in NEUTRAL.items():
            default = model_settings.get(key) if self.temperature or PARAMETERS[key].for_greedy else None
            chosen[key] = next(it for it in (getattr(self, key), default, neutral) if it is not None)
        return replace(self, **chosen)

    def describe_sampling(self, model_settings: Mapping[str, Any]) -> str:
        """Describe the sampling parameters, and mark those from the model's generation config."""
        effective = self.apply_model_defaults(model_settings)
        words = [f"temperature {self.temperature:g}" if self.temperature else "greedy"]
        for key, neutral in NEUTRAL.items():
            if (value := getattr(effective, key)) != neutral:
                words.append(
                    f"{key} {value:g}" + (" (the model's own)" if getattr(self, key) is None else "")
                )
        return ", ".join(words)

    @property
    def needs_published_settings(self) -> bool:
        """Whether some settings must still be read from the model's files."""
        return False

    def apply_published_settings(
        self,
        published_values: Mapping[str, float],
        sources: Mapping[str, Note],
        file_name: str,
        max_new_tokens: int | None,
    ) -> GenerationConfig:
        """Return this config unchanged, because only ModelGeneration uses settings in the model's files."""
        return self

    @property
    def sources_description(self) -> str:
        """A text that names the source of each setting. Empty if all settings come from the user's config."""
        return ""

    def build_ignored_settings_notes(self, model_settings: Mapping[str, Any]) -> list[Note]:
        """Return a note on settings in the model's generation config that the engines do not support."""
        ignored = {
            key: model_settings[key]
            for key, off in IGNORED_SETTINGS.items()
            if model_settings.get(key) not in (None, off)
            and (self.temperature or key not in IGNORED_ONLY_IN_SAMPLING)
        }
        file = "the model's generation_config.json"
        return [note("ignored_settings", file=file, ignored=ignored)] if ignored else []


USUAL_NEW_TOKENS = 512  # of generation=model, where the model's files name no length
OF_PUBLISHER = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(kw_only=True)
class ModelGeneration(GenerationConfig):
    """Generation config whose unset keys get the values that the model's publisher recommends."""

    name: ClassVar[str] = "model"
    max_new_tokens: int = config_field(0, constraint=at_least(0, " (0: what the model's files say)"))
    temperature: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._sources: dict[str, Note] = {}  # by key; kept with the config, and no key of it

    @property
    def needs_published_settings(self) -> bool:
        """Whether some settings must still be read from the model's files."""
        return not self.max_new_tokens or any(getattr(self, name) is None for name in OF_PUBLISHER)

    @property
    def max_total_new_tokens(self) -> int:
        """Maximum number of new tokens in thinking and answer together. An unset limit counts as
        the default.
        """
        return (self.max_new_tokens or USUAL_NEW_TOKENS) + (self.thinking_tokens or 0)

    def apply_published_settings(
        self,
        published_values: Mapping[str, float],
        sources: Mapping[str, Note],
        file_name: str,
        max_new_tokens: int | None,
    ) -> ModelGeneration:
        """Fill all keys that the user has not set with the settings in the model's files."""
        given = {name: getattr(self, name) for name in OF_PUBLISHER} | {
            "max_new_tokens": self.max_new_tokens or None
        }
        published: dict[str, Any] = {**published_values, "max_new_tokens": max_new_tokens or USUAL_NEW_TOKENS}
        named_length = note("from_file", file=file_name) if max_new_tokens else note("usual_length")
        of_files: dict[str, Note] = {**sources, "max_new_tokens": named_length}
        if given["temperature"] == 0 or (
            given["temperature"] is None and not published_values["temperature"]
        ):
            published |= {name: NEUTRAL[name] for name in OF_PUBLISHER[1:] if not PARAMETERS[name].for_greedy}
        chosen = {name: published[name] if value is None else value for name, value in given.items()}
        closed = replace(self, **chosen)
        for name, value in given.items():
            closed._sources[name] = of_files[name] if value is None else note("as_given")
        return closed

    @property
    def sources_description(self) -> str:
        """A text with the sampling settings and the source of each setting."""
        return f"generation=model: {self._describe_settings_by_source((*OF_PUBLISHER, 'max_new_tokens'))}"

    def describe_sampling(self, model_settings: Mapping[str, Any]) -> str:
        """Describe the sampling settings and the source of each setting."""
        return (
            self._describe_settings_by_source(OF_PUBLISHER)
            if self._sources
            else super().describe_sampling(model_settings)
        )

    def _describe_settings_by_source(self, setting_names: Sequence[str]) -> str:
        by_source: dict[Note, list[str]] = {}
        for name in setting_names:
            value = getattr(self, name)
            if name == "temperature" and not value:
                by_source.setdefault(self._sources[name], []).append("greedy")
            elif value != NEUTRAL.get(name):
                by_source.setdefault(self._sources[name], []).append(f"{name} {value:g}")
        return "; ".join(
            f"{', '.join(words)}, {render_engine_note(source)}" for source, words in by_source.items()
        )


def check_thinking_settings(generation: GenerationConfig) -> None:
    """Raise ConfigError for invalid thinking tags, and for an end text without a thinking budget."""
    tags = generation.thinking_tags
    is_ok = len(tags) % 2 == 0 and all(map(str.strip, tags)) and len(set(tags)) == len(tags)
    need = 'must be pairs of different texts: an opening tag, then its closing tag, such as ["<think>", "</think>"]'
    check_value(is_ok, "generation.thinking_tags", json.dumps(tags, ensure_ascii=False), need)
    if generation.thinking_end is not None and generation.thinking_tokens is None:
        raise ConfigError(
            f"generation.thinking_end={generation.thinking_end!r} has no effect without a thinking budget. "
            "Set generation.thinking_tokens, or generation.thinking_end=null",
            code="no_effect",
        )


def _define_choice_subclass(choice_name: str) -> type[GenerationConfig]:
    """Define a config class for a choice of the group `generation`, whose values are in conf/generation."""
    title = f"{choice_name.title()}Generation"
    kind = type(
        title,
        (GenerationConfig,),
        {"name": choice_name, "__module__": __name__, "__doc__": GenerationConfig.__doc__},
    )
    globals()[title] = kind  # where pickle looks for it
    return kind


GENERATIONS = {"greedy": GenerationConfig, "model": ModelGeneration} | {
    name: _define_choice_subclass(name)
    for name in ("sampling", "factual", "creative", "code", "chat", "translation", "agents")
}

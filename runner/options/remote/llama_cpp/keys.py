"""Config keys of model=llama_cpp: a .gguf file on a llama.cpp server that the runner starts and
stops.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from runner.options.remote.started.keys import StartedConfig
from runner.options.remote.thinking_budget import ThinkingBudget, check_thinking_budget
from runner_base import (
    HASHED,
    MISSING,
    UNLESS_DEFAULT,
    NotInIdentity,
    at_least,
    check_value,
    config_field,
    in_range,
    not_blank,
)
from runner_engine import GenerationConfig, LoraConfig, ModelConfig, QuantizationConfig, RopeConfig
from runner_engine.settings.generation import reject_prompt_cache_limit, reject_scheduler_only_settings
from runner_engine.settings.model import reject_weight_changes

BY_KEY = {  # what llama.cpp's command line says and a key of the runner says, too
    **dict.fromkeys(
        ("-m", "--model", "-mu", "--model-url", "-dr", "--docker-repo", "-hf", "-hfr"), "model.name"
    ),
    **dict.fromkeys(("--hf-repo", "-hff", "--hf-file"), "model.name"),
    **dict.fromkeys(("-ngl", "--gpu-layers", "--n-gpu-layers"), "model.gpu_layers"),
    **dict.fromkeys(("-c", "--ctx-size"), "model.context"),
    **dict.fromkeys(("-np", "--parallel"), "model.parallel"),
    **dict.fromkeys(("--cache-prompt", "--no-cache-prompt"), "model.prompt_cache"),
    **dict.fromkeys(("-ctk", "--cache-type-k"), "model.kv_keys"),
    **dict.fromkeys(("-ctv", "--cache-type-v"), "model.kv_values"),
    **dict.fromkeys(("-fa", "--flash-attn"), "model.flash_attention"),
    **dict.fromkeys(("-b", "--batch-size"), "model.batch"),
    **dict.fromkeys(("-ub", "--ubatch-size"), "model.ubatch"),
    **dict.fromkeys(("-t", "--threads", "-tb", "--threads-batch"), "model.threads"),
    **dict.fromkeys(("-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe"), "model.n_cpu_moe"),
    **dict.fromkeys(("-md", "--model-draft", "--spec-draft-model"), "model.draft"),
    **dict.fromkeys(("--draft", "--draft-n", "--draft-max", "--spec-draft-n-max"), "model.draft_tokens"),
    **dict.fromkeys(("-ot", "--override-tensor"), "model.override_tensors"),
    "--chat-template-kwargs": "model.chat_template_kwargs",
    **dict.fromkeys(("-s", "--seed"), "seed"),
    **dict.fromkeys(
        (
            "--temp",
            "--temperature",
            "--top-k",
            "--top-p",
            "--min-p",
            "--repeat-penalty",
            "--presence-penalty",
            "--frequency-penalty",
            "-n",
            "--predict",
            "--n-predict",
            "--samplers",
            "--sampler-seq",
            "--repeat-last-n",
            "--ignore-eos",
        ),
        "generation",
    ),
    "--port": "model.port",
}
OWN = ("--host", "--api-key", "--api-key-file", "-a", "--alias", "--api-prefix", "--path", "--reuse-port",
       "-h", "--help", "--usage", "--version", "--list-devices", "--log-disable", "--log-file", "--embedding",
       "--embeddings", "--rerank", "--reranking", "--ssl-key-file", "--ssl-cert-file")  # fmt: skip
UNRECORDED = ("--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled", "--models-dir",
              "--models-preset", "--slot-save-path", "-fit", "--fit")  # fmt: skip


class KvType(StrEnum):
    """Storage format of llama.cpp's KV cache."""

    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"
    q5_1 = "q5_1"
    q5_0 = "q5_0"
    q4_1 = "q4_1"
    q4_0 = "q4_0"
    iq4_nl = "iq4_nl"

    @property
    def bits(self) -> float:
        """Bits per stored value, including its share of the block's scale."""
        return _BITS[self]

    @property
    def is_at_least_f16(self) -> bool:
        return self in (KvType.f32, KvType.f16)


_BITS = {
    KvType.f32: 32.0,
    KvType.f16: 16.0,
    KvType.bf16: 16.0,
    KvType.q8_0: 8.5,
    KvType.q5_1: 6.0,
    KvType.q5_0: 5.5,
    KvType.q4_1: 5.0,
    KvType.q4_0: 4.5,
    KvType.iq4_nl: 4.5,
}


class FlashAttention(StrEnum):
    """llama.cpp's setting for flash attention, where `auto` lets llama.cpp decide."""

    auto = "auto"
    on = "on"
    off = "off"


@dataclass
class LlamaCppConfig(StartedConfig):
    """Config of model=llama_cpp: a .gguf file that a llama.cpp server loads."""

    module: ClassVar[str] = "runner.options.remote.llama_cpp.kind"
    OPTIONS_BY_KEY: ClassVar[Mapping[str, str]] = BY_KEY
    OWN_OPTIONS: ClassVar[Collection[str]] = OWN
    UNRECORDED_OPTIONS: ClassVar[Collection[str]] = UNRECORDED
    name: str = config_field(
        MISSING, HASHED, not_blank("give a .gguf file, or a hub model as OWNER/MODEL:QUANT")
    )
    gpu_layers: int | None = config_field(None, constraint=at_least(0, ", or null"))
    context: int | None = config_field(None, constraint=at_least(1, ", or null"))
    parallel: int = config_field(4, constraint=in_range(1, 256))
    prompt_cache: bool | None = config_field(None, UNLESS_DEFAULT)
    kv_keys: KvType = KvType.f16
    kv_values: KvType = KvType.f16
    flash_attention: FlashAttention = FlashAttention.auto
    batch: int | None = config_field(None, constraint=at_least(1, ", or null"))
    ubatch: int | None = config_field(None, constraint=at_least(1, ", or null"))
    threads: int | None = config_field(None, constraint=at_least(1, ", or null"))
    n_cpu_moe: int | None = config_field(None, constraint=at_least(1, ", or null"), renamed_from="cpu_moe")
    draft: str | None = config_field(None, HASHED, not_blank("give a .gguf file, or null"))
    draft_tokens: int | None = config_field(None, constraint=at_least(1, ", or null"))
    override_tensors: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    executable: str | None = config_field(
        None,
        NotInIdentity("the job id contains the program's version instead of its path"),
        not_blank("give the path or name of a program, or null"),
    )
    python: str | None = config_field(
        None,
        NotInIdentity("the job id contains the version of xllamacpp instead of the path"),
        not_blank("give a path, or null"),
    )

    @property
    def caches_prompts(self) -> bool:
        """Whether llama.cpp's prompt cache is on, which reuses prefixes of earlier prompts.

        Earlier requests then affect the last bits of an answer.
        """
        return self.parallel > 1 if self.prompt_cache is None else self.prompt_cache

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "model.executable is also set. Set either model.executable or model.python"
        check_value(
            self.python is None or self.executable is None, "model.python", self.python, need, code="conflict"
        )
        is_small = self.kv_values.bits < 16
        need = f"llama.cpp rejects model.kv_values={self.kv_values} without this key"
        is_off = self.flash_attention is FlashAttention.off
        check_value(not (is_small and is_off), "model.flash_attention", "off", need, code="conflict")
        need = "this key has no effect without a draft model. Give model.draft=FILE, or omit this key"
        is_drafted = self.draft is not None or self.draft_tokens is None
        check_value(is_drafted, "model.draft_tokens", self.draft_tokens, need, code="no_effect")
        for rule in self.override_tensors:
            need = "give PATTERN=DEVICE, e.g. 'blk\\.[0-3]\\.ffn_.*=CPU'"
            check_value(re.fullmatch(r"[^=,]+=[\w]+", rule) is not None, "model.override_tensors", rule, need)
        for word in self.flags:
            self.reject_disallowed_server_option("model.flags", word, word.partition("=")[0])

    def check_compatibility(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Raise ConfigError for settings that llama.cpp does not support or implements differently."""
        need = "llama.cpp has no PEFT adapters. Merge the adapter into a .gguf file, or use model=local"
        check_value(lora.name == "none", "lora", lora.name, need, code="unsupported")
        why = "llama.cpp cannot change the weights of a .gguf file"
        reject_weight_changes(quantization, lora, rope, why)
        need = (
            "llama.cpp also penalizes the prompt's tokens, so answers would differ from other "
            "engines. Omit this key"
        )
        for name in ("frequency_penalty", "presence_penalty"):
            value = getattr(generation, name)
            check_value(not value, f"generation.{name}", value, need, code="unsupported")
        rows, most = generation.batch_size, self.parallel
        need = f"the batch size exceeds model.parallel={most}. Raise model.parallel, or lower the batch size"
        check_value(rows is None or rows <= most, "generation.batch_size", rows, need, code="conflict")
        why = "llama.cpp has its own KV cache settings, model.kv_keys and model.kv_values"
        reject_scheduler_only_settings(generation, why)
        reject_prompt_cache_limit(generation, "llama.cpp uses model.prompt_cache")
        check_thinking_budget("model", ThinkingBudget.llama_cpp, generation)


def as_llama_cpp_config(model: ModelConfig) -> LlamaCppConfig:
    assert isinstance(model, LlamaCppConfig)
    return model

"""Config keys of model=vllm: a model on a vLLM server that the runner starts and stops."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from runner.options.remote.started.keys import StartedConfig
from runner.options.remote.thinking_budget import ThinkingBudget, check_thinking_budget
from runner_base import (
    HASHED,
    MISSING,
    UNLESS_DEFAULT,
    ConfigError,
    Dtype,
    NotInIdentity,
    at_least,
    check_value,
    config_field,
    in_range,
    not_blank,
)
from runner_engine import GenerationConfig, LoraConfig, ModelConfig, QuantizationConfig, RopeConfig
from runner_engine.settings.generation import reject_prompt_cache_limit, reject_scheduler_only_settings

# choices of the group quantization that vLLM makes while loading, in its words
WORDS = {"none": None, "fp8": "fp8"}
BY_KEY = {  # what vLLM's command line says and a key of the runner says, too
    **dict.fromkeys(("--model", "--model-tag", "--tokenizer", "--hf-config-path"), "model.name"),
    **dict.fromkeys(("--revision", "--code-revision", "--tokenizer-revision"), "model.revision"),
    "--download-dir": "model.cache_dir",
    "--dtype": "model.dtype",
    "--quantization": "quantization",
    "--kv-cache-dtype": "model.kv_cache_dtype",
    "--tensor-parallel-size": "model.tensor_parallel",
    "--pipeline-parallel-size": "model.pipeline_parallel",
    "--data-parallel-size": "model.data_parallel",
    "--gpu-memory-utilization": "model.memory_share",
    "--max-model-len": "model.max_positions",
    "--reasoning-parser": "model.reasoning_parser",
    "--trust-remote-code": "model.trust_remote_code",
    "--default-chat-template-kwargs": "model.chat_template_kwargs",
    **dict.fromkeys(("--enable-lora", "--lora-modules", "--max-lora-rank", "--max-loras"), "lora"),
    **dict.fromkeys(
        ("--generation-config", "--override-generation-config", "--logits-processors"), "generation"
    ),
    "--seed": "seed",
    "--port": "model.port",
}
SHORT = {"-q": "--quantization", "-tp": "--tensor-parallel-size", "-pp": "--pipeline-parallel-size",
         "-dp": "--data-parallel-size"}  # fmt: skip
# the runner gives them
OWN = ("--host", "--uds", "--api-key", "--served-model-name", "--root-path", "--headless")
UNRECORDED = (  # the record would name other weights, prompts or numbers than those that answered
    "--config",
    "--load-format",
    "--hf-overrides",
    "--chat-template",
    "--tokenizer-mode",
    "--skip-tokenizer-init",
    "--logprobs-mode",
    "--max-logprobs",
    "--model-loader-extra-config",
    "--middleware",
    "--quantization-config",
    "--runner",
    "--convert",
    "--model-impl",
    "--enable-log-requests",
    "--ssl-keyfile",
    "--ssl-certfile",
    "--rope-scaling",
    "--rope-theta",
    "--default-mm-loras",
    "--tokenizer-pool-size",
)


@dataclass
class VllmConfig(StartedConfig):
    """Config of model=vllm, which runs a causal language model from a folder or hub id with vLLM."""

    module: ClassVar[str] = "runner.options.remote.vllm.kind"
    OPTIONS_BY_KEY: ClassVar[Mapping[str, str]] = BY_KEY
    OWN_OPTIONS: ClassVar[Collection[str]] = OWN
    UNRECORDED_OPTIONS: ClassVar[Collection[str]] = UNRECORDED
    name: str = config_field(MISSING, HASHED, not_blank("give a model folder or a hub id"))
    dtype: Dtype = Dtype.auto
    quantization: str | None = config_field(None, constraint=not_blank("give vLLM's word, or null"))
    kv_cache_dtype: str | None = config_field(None, UNLESS_DEFAULT, not_blank("give vLLM's word, or null"))
    tensor_parallel: int = config_field(1, constraint=at_least(1))
    pipeline_parallel: int = config_field(1, constraint=at_least(1))
    data_parallel: int = config_field(1, constraint=at_least(1))
    memory_share: float | None = config_field(
        None,
        NotInIdentity("how much memory vLLM takes", measured=True),
        in_range(0.01, 1, "must be null or a number from 0.01 to 1"),
    )
    max_positions: int | None = config_field(None, constraint=at_least(1, ", or null"))
    reasoning_parser: str | None = config_field(None, constraint=not_blank("give vLLM's word, or null"))
    trust_remote_code: bool = False
    args: list[str] = field(default_factory=list)
    python: str | None = config_field(
        None,
        NotInIdentity("the job id contains the version of vLLM instead of the path"),
        not_blank("give a path, or null"),
    )
    concurrency: int = config_field(
        64, NotInIdentity("how many requests run concurrently", measured=True), at_least(1)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for word in self.args:
            self._check_server_argument(word)

    @property
    def num_gpus(self) -> int:
        """Total number of GPUs that the server uses, on one or several machines."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    def vllm_quantization(self, quantization: QuantizationConfig) -> str | None:
        """Return vLLM's name for the quantization that it applies while loading, or None without
        quantization.
        """
        return self.quantization or WORDS.get(quantization.name)

    def check_compatibility(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Raise ConfigError for settings that vLLM does not support or implements differently."""
        fix = "Use model=auto, which runs the model without vLLM"
        why = {
            "rope_2d": "vLLM does not support two-dimensional RoPE",
            "dynamic": (
                "vLLM scales the RoPE of all prompts for the longest prompt. Answers would differ "
                "from other engines"
            ),
        }.get(rope.name, "model=vllm does not support RoPE scaling by config keys")
        check_value(rope.name == RopeConfig.name, "rope", rope.name, f"{why}. {fix}", code="unsupported")
        need = f"vLLM rejects contexts that are longer than the model supports. {fix}"
        check_value(not rope.beyond_trained, "rope.beyond_trained", True, need, code="unsupported")
        check_value(
            not lora.selectable_adapters,
            "lora",
            lora.name,
            f"vLLM loads only one adapter, with lora=peft. {fix}",
            code="unsupported",
        )
        is_pth = (adapter := lora.single_adapter) is not None and adapter.is_single_file
        check_value(
            not is_pth, "lora", lora.name, f"vLLM cannot read .pth adapters. {fix}", code="unsupported"
        )
        check_value(
            not lora.merges_adapter,
            "lora.merge",
            True,
            "vLLM does not merge adapters. Use lora.merge=false",
            code="unsupported",
        )
        need = (
            f"vLLM cannot mix formats by layer. Omit quantization.skip and quantization.overrides. Or: {fix}"
        )
        check_value(not quantization.is_mixed, "quantization", quantization.label, need, code="unsupported")
        need = (
            f"vLLM does not support this format. Use {' or '.join(WORDS)}, or one of vLLM's formats with "
            "model.quantization=NAME. For a quantized checkpoint use quantization=none"
        )
        check_value(quantization.name in WORDS, "quantization", quantization.name, need, code="unsupported")
        need = f"quantization={quantization.name} already sets the format. Omit model.quantization"
        is_once = self.quantization is None or quantization.name == "none"
        check_value(is_once, "model.quantization", self.quantization, need, code="conflict")
        rows, most = generation.batch_size, self.concurrency
        need = f"the batch size exceeds model.concurrency={most}. Raise it, or lower the batch size"
        check_value(rows is None or rows <= most, "generation.batch_size", rows, need, code="conflict")
        why = "vLLM has its own KV cache setting, model.kv_cache_dtype"
        reject_scheduler_only_settings(generation, why)
        reject_prompt_cache_limit(generation, "vLLM stores earlier prompts itself")
        if generation.thinking_tokens is not None and self.reasoning_parser is None:
            raise ConfigError(
                (
                    "vLLM needs a reasoning parser to limit thinking. Give "
                    "model.reasoning_parser=NAME, such as qwen3 or deepseek_r1, or omit this key"
                ),
                key="generation.thinking_tokens",
                value=generation.thinking_tokens,
                code="missing",
            )
        check_thinking_budget("model", ThinkingBudget.vllm, generation)

    def _check_server_argument(self, argument: str) -> None:
        """Raise ConfigError for a server argument that a config key controls, or that would make the run
        record wrong.

        vLLM's parser accepts abbreviations, `_` for `-`, `--no-…`, and `--option.key` for a key of
        a JSON option.
        """
        head = argument.partition("=")[0]
        option = SHORT.get(head, head).replace("_", "-").partition(".")[0]
        if not option.startswith("--") or option == "--":
            need = (
                "not an option of vLLM's command line. Options begin with --"
                if argument.startswith("-")
                else ""
            )
            check_value(not need, "model.args", argument, need)
            return
        option = "--" + option.removeprefix("--").removeprefix("no-")
        names = [name for name in (*BY_KEY, *OWN, *UNRECORDED) if name == option] or [
            name for name in (*BY_KEY, *OWN, *UNRECORDED) if len(option) > 2 and name.startswith(option)
        ]
        if names:
            self.reject_disallowed_server_option("model.args", argument, names[0])


def as_vllm_config(model: ModelConfig) -> VllmConfig:
    assert isinstance(model, VllmConfig)
    return model

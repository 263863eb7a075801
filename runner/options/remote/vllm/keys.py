"""model=vllm: the keys of a model that a server of vLLM runs, which the runner starts and ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from runner.options.remote.started.keys import StartedConfig
from runner.options.remote.thinking_budget import ThinkingBudget, check_budget
from runner_base import (
    HASHED,
    MISSING,
    UNLESS_DEFAULT,
    ConfigError,
    Dtype,
    Inert,
    check,
    filled,
    least,
    setting,
    within,
)
from runner_engine import GenerationConfig, LoraConfig, ModelConfig, QuantizationConfig, RopeConfig
from runner_engine.settings.generation import require_no_scheduler

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
    """A causal language model that vLLM runs: a local folder or a hub id; its files are hashed like
    a local model's."""

    module: ClassVar[str] = "runner.options.remote.vllm.kind"
    OPTIONS_BY_KEY: ClassVar[Mapping[str, str]] = BY_KEY
    OWN_OPTIONS: ClassVar[Collection[str]] = OWN
    UNRECORDED_OPTIONS: ClassVar[Collection[str]] = UNRECORDED
    name: str = setting(MISSING, HASHED, filled("give a folder or a hub id"))
    dtype: Dtype = Dtype.auto
    quantization: str | None = setting(None, takes=filled("give vLLM's word, or null"))
    kv_cache_dtype: str | None = setting(None, UNLESS_DEFAULT, filled("give vLLM's word, or null"))
    tensor_parallel: int = setting(1, takes=least(1))
    pipeline_parallel: int = setting(1, takes=least(1))
    data_parallel: int = setting(1, takes=least(1))
    memory_share: float | None = setting(
        None,
        Inert("how much memory vLLM takes", measured=True),
        within(0.01, 1, "must lie in 0.01..1, or be null"),
    )
    max_positions: int | None = setting(None, takes=least(1, ", or null"))
    reasoning_parser: str | None = setting(None, takes=filled("give vLLM's word, or null"))
    trust_remote_code: bool = False
    args: list[str] = field(default_factory=list)
    python: str | None = setting(
        None, Inert("the version of vLLM that it finds counts instead"), filled("give a path, or null")
    )
    concurrency: int = setting(64, Inert("how many requests are in flight at once", measured=True), least(1))

    def __post_init__(self) -> None:
        super().__post_init__()
        for word in self.args:
            self._check_word(word)

    @property
    def gpus(self) -> int:
        """How many GPUs it takes, here or on several machines."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    def word_for(self, quantization: QuantizationConfig) -> str | None:
        """Return vLLM's word for how weights are quantized while loading; None: they are not."""
        return self.quantization or WORDS.get(quantization.name)

    def check_beside(
        self,
        quantization: QuantizationConfig,
        lora: LoraConfig,
        rope: RopeConfig,
        generation: GenerationConfig,
    ) -> None:
        """Reject what vLLM cannot do, or does in another way than the record would say."""
        fix = "use model=auto, which runs on this machine"
        why = {
            "rope_2d": "vLLM has no second coordinate for a token",
            "dynamic": "vLLM rotates all texts as the longest one, so it would be another setting of the same name",
        }.get(
            rope.name,
            "vLLM would read another config than the one that is hashed and compared with transformers",
        )
        check(rope.name == RopeConfig.name, "rope", rope.name, f"{why}; {fix}", code="unsupported")
        need = f"vLLM stops at model.max_positions, and refuses more than the model's own; {fix}"
        check(not rope.beyond_trained, "rope.beyond_trained", True, need, code="unsupported")
        check(
            not lora.each,
            "lora",
            lora.name,
            f"vLLM gets one adapter, with lora=peft; {fix}",
            code="unsupported",
        )
        is_pth = (adapter := lora.adapter) is not None and adapter.is_single_file
        check(not is_pth, "lora", lora.name, f"vLLM reads PEFT adapters, no .pth: {fix}", code="unsupported")
        check(
            not lora.merges,
            "lora.merge",
            True,
            "vLLM keeps adapters beside the weights: use lora.merge=false",
            code="unsupported",
        )
        need = f"vLLM quantizes all layers alike: leave quantization.skip and quantization.overrides out, or {fix}"
        check(not quantization.is_mixed, "quantization", quantization.label, need, code="unsupported")
        need = (
            f"vLLM quantizes a plain checkpoint with {' or '.join(WORDS)}, or model.quantization=WORD with a word of "
            "its own; what a checkpoint has stored needs quantization=none"
        )
        check(quantization.name in WORDS, "quantization", quantization.name, need, code="unsupported")
        need = f"quantization={quantization.name} says it, too: leave one of the two out"
        is_once = self.quantization is None or quantization.name == "none"
        check(is_once, "model.quantization", self.quantization, need, code="conflict")
        rows, most = generation.batch_size, self.concurrency
        need = f"model.concurrency={most} allows no more requests in flight at once"
        check(rows is None or rows <= most, "generation.batch_size", rows, need, code="conflict")
        why = "vLLM keeps keys and values itself (model.kv_cache_dtype says how)"
        require_no_scheduler(generation, why)
        if generation.thinking_tokens is not None and self.reasoning_parser is None:
            raise ConfigError(
                "vLLM must know how the model marks its "
                "thinking: give model.reasoning_parser=WORD, e.g. qwen3 or deepseek_r1, or leave the budget out",
                key="generation.thinking_tokens",
                value=generation.thinking_tokens,
                code="missing",
            )
        check_budget("model", ThinkingBudget.vllm, generation)

    def _check_word(self, word: str) -> None:
        """Reject a word of the command line that a key says, or that would make the record wrong.

        vLLM's parser takes abbreviations, `_` for `-`, `--no-…`, and `--option.key` for a key of an
        option in JSON.
        """
        head = word.partition("=")[0]
        option = SHORT.get(head, head).replace("_", "-").partition(".")[0]
        if not option.startswith("--") or option == "--":
            need = "give words of vLLM's command line, which begin with --" if word.startswith("-") else ""
            check(not need, "model.args", word, need)
            return
        option = "--" + option.removeprefix("--").removeprefix("no-")
        names = [name for name in (*BY_KEY, *OWN, *UNRECORDED) if name == option] or [
            name for name in (*BY_KEY, *OWN, *UNRECORDED) if len(option) > 2 and name.startswith(option)
        ]
        if names:
            self.check_option("model.args", word, names[0])


def vllm_model(model: ModelConfig) -> VllmConfig:
    """Return the keys of a model that vLLM runs."""
    assert isinstance(model, VllmConfig)
    return model

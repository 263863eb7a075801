"""The schema: every key a user may set, its type, its default and the checks that need no weights.

Config is inert: these dataclasses check themselves and build nothing. Closed choices are `StrEnum`s whose
member names equal their values, because OmegaConf looks a member up by name. A field marked `inert` cannot
change an answer and stays out of the job's identity (see `runner/jobs.py`); every other field counts.

Imports neither torch nor hydra: the engine uses these classes on machines that have only torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any

from runner.errors import ConfigError, check, unknown

MISSING: Any = "???"  # OmegaConf's marker for "the user must say"


def inert(default: Any, why: str) -> Any:
    """A field that stays out of the job's identity, and the reason why."""
    return field(default=default, metadata={"inert": why})


HASHED = "a place; the SHA-256 of what lies there counts instead"


class Print(StrEnum):
    """What goes to stdout when a job ends."""

    table = "table"
    json = "json"
    none = "none"


class Dtype(StrEnum):
    """Number format of the weights and activations; auto = as the checkpoint says."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Attention(StrEnum):
    """Attention implementation; auto = what transformers picks."""

    auto = "auto"
    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


# ---------------------------------------------------------------------------------------------- model


@dataclass
class ModelConfig:
    """A causal language model: the embedded one, a local folder or a hub id."""

    name: str = inert(MISSING, HASHED)
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
    check_memory: bool = inert(True, "refuses what would not fit, and changes nothing in what does")

    def __post_init__(self) -> None:
        check(self.threads is None or self.threads >= 1, "model.threads", self.threads, "must be 1 or more, or null")
        kind, _, index = self.device.partition(":")
        known = kind in ("auto", "cpu", "cuda") and (not index or (kind == "cuda" and index.isdigit()))
        check(known, "model.device", self.device, "use auto, cpu, cuda or cuda:N")
        check(bool(self.name.strip()), "model.name", repr(self.name), "give a folder or a hub id")
        check(
            self.device_map in (None, "auto"), "model.device_map", self.device_map, "use auto, or null for one device"
        )
        check(
            self.max_memory is None or isinstance(self.max_memory, dict),
            "model.max_memory",
            self.max_memory,
            "give {0: 3GB, cpu: 8GB}",
        )
        self.max_memory = {str(place): str(size) for place, size in (self.max_memory or {}).items()} or None
        for place, size in (self.max_memory or {}).items():
            key = f"model.max_memory.{place}"
            check(place == "cpu" or place.isdigit(), key, size, "name a place: a GPU's number, or cpu")
            check(
                re.fullmatch(r"\d+(\.\d+)?[KMG]i?B", size) is not None, key, size, "give a size such as 3GB or 800MiB"
            )
        if self.max_memory and self.device_map is None:
            raise ConfigError("model.max_memory needs model.device_map=auto, which spreads the model over devices")
        if self.device_map == "auto" and self.device != "auto":
            raise ConfigError(f"model.device_map=auto with model.device={self.device}: give one of the two")


@dataclass
class LocalConfig(ModelConfig):
    """A folder or a .gguf file on this machine: never taken for a hub id, never looked for in the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "only a hub has revisions: leave it out, or use model=auto"
        check(self.revision is None, "model.revision", self.revision, need)
        check(not self.random_weights, "model.random_weights", self.random_weights, "a local model has its own weights")


@dataclass
class StubConfig(ModelConfig):
    """No weights: echoes the head of the prompt, to wire up whole grids in seconds."""

    name: str = inert("stub", HASHED)
    delay_s: float = inert(0.0, "only slows the stub down")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.delay_s >= 0, "model.delay_s", self.delay_s, "must be 0 or more seconds")


# --------------------------------------------------------------------------------------- quantization


@dataclass
class QuantizationConfig:
    """No quantization: the weights stay in model.dtype."""

    name: str = "none"


@dataclass
class Int8Config(QuantizationConfig):
    """LLM.int8() by bitsandbytes: int8 weights, outlier columns kept apart."""

    name: str = "int8"
    threshold: float = 6.0

    def __post_init__(self) -> None:
        check(self.threshold >= 0, "quantization.threshold", self.threshold, "must be 0 or more")


@dataclass
class FourBitConfig(QuantizationConfig):
    """Shared keys of the two 4-bit formats of bitsandbytes."""

    name: str = MISSING
    double_quant: bool = True
    compute_dtype: Dtype = Dtype.bfloat16

    def __post_init__(self) -> None:
        check(
            self.compute_dtype is not Dtype.auto,
            "quantization.compute_dtype",
            self.compute_dtype,
            "choose bfloat16, float16 or float32",
        )


@dataclass
class Nf4Config(FourBitConfig):
    """4-bit NormalFloat by bitsandbytes."""

    name: str = "nf4"


@dataclass
class Fp4Config(FourBitConfig):
    """4-bit float by bitsandbytes."""

    name: str = "fp4"


@dataclass
class TorchaoInt8Config(QuantizationConfig):
    """Weight-only int8 by torchao: int8 weights with one scale a row, products in model.dtype."""

    name: str = "torchao_int8"


@dataclass
class GptqConfig(QuantizationConfig):
    """A checkpoint that GPTQ has quantized already."""

    name: str = "gptq"


@dataclass
class AwqConfig(QuantizationConfig):
    """A checkpoint that AWQ has quantized already."""

    name: str = "awq"


@dataclass
class GgufConfig(QuantizationConfig):
    """A .gguf file: its blocks are unpacked while loading, into model.dtype."""

    name: str = "gguf"


# ------------------------------------------------------------------------------------------- lora, rope


@dataclass
class LoraConfig:
    """No adapter."""

    name: str = "none"


@dataclass
class AdapterConfig(LoraConfig):
    """Shared keys of the adapters: where it is, and whether it is folded into the weights."""

    name: str = MISSING
    path: str = inert(MISSING, HASHED)
    merge: bool = False

    def __post_init__(self) -> None:
        check(bool(self.path.strip()), "lora.path", repr(self.path), "give the adapter's folder, hub id or .pth file")


@dataclass
class PeftConfig(AdapterConfig):
    """A PEFT adapter: a local folder, a hub id, or `embedded` for the one that ships with the runner."""

    name: str = "peft"


@dataclass
class PthConfig(AdapterConfig):
    """A square-only adapter in a `.pth` file, or `embedded` for the one that ships; rank null = as the file has it."""

    name: str = "pth"
    rank: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.rank is None or self.rank >= 1, "lora.rank", self.rank, "must be 1 or more, or null")


@dataclass
class RopeConfig:
    """The model's own rotary embedding, untouched."""

    name: str = "native"


@dataclass
class Rope2dConfig(RopeConfig):
    """Two coordinates a token: the last pairs turn with branch and time in turns, the rest with the position."""

    name: str = "rope_2d"
    ratio: float = 0.5
    stride: int = 128

    def __post_init__(self) -> None:
        check(0 <= self.ratio <= 1, "rope.ratio", self.ratio, "must lie in 0..1")
        check(self.stride >= 1, "rope.stride", self.stride, "must be 1 or more")


@dataclass
class RopeScalingConfig(RopeConfig):
    """Shared key of transformers' own scalings: how many times longer the context becomes."""

    name: str = MISSING
    factor: float = MISSING

    def __post_init__(self) -> None:
        check(1 <= self.factor < float("inf"), "rope.factor", self.factor, "must be 1 or more")


@dataclass
class RopeLinearConfig(RopeScalingConfig):
    """Linear scaling: every angle is divided by the factor."""

    name: str = "linear"


@dataclass
class RopeDynamicConfig(RopeScalingConfig):
    """Dynamic NTK scaling: the base grows with the sequence, once it is longer than the model's own positions."""

    name: str = "dynamic"


@dataclass
class RopeLengthScalingConfig(RopeScalingConfig):
    """Shared key of the scalings that look at the length of pretraining; null = as the model says."""

    original_max_position_embeddings: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        length = self.original_max_position_embeddings
        need = "must be 1 or more, or null for the model's own"
        check(length is None or length >= 1, "rope.original_max_position_embeddings", length, need)


@dataclass
class RopeYarnConfig(RopeLengthScalingConfig):
    """YaRN: low frequencies are stretched, high ones kept; null = as the paper says."""

    name: str = "yarn"
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("attention_factor", "beta_fast", "beta_slow"):
            value = getattr(self, key)
            check(value is None or value > 0, f"rope.{key}", value, "must be more than 0, or null")
        fast, slow = self.beta_fast or 32, self.beta_slow or 1
        check(fast > slow, "rope.beta_fast", fast, f"must be more than rope.beta_slow={slow}")


@dataclass
class RopeLlama3Config(RopeLengthScalingConfig):
    """Llama 3.1's scaling: wavelengths are stretched, kept or blended by two bounds."""

    name: str = "llama3"
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.low_freq_factor > 0, "rope.low_freq_factor", self.low_freq_factor, "must be more than 0")
        need = f"must be more than rope.low_freq_factor={self.low_freq_factor}"
        check(self.high_freq_factor > self.low_freq_factor, "rope.high_freq_factor", self.high_freq_factor, need)


# ------------------------------------------------------------------------------------------- generation


@dataclass
class GenerationConfig:
    """How completions are drawn; temperature 0 means greedy."""

    name: str = MISSING
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check(self.max_new_tokens >= 1, "generation.max_new_tokens", self.max_new_tokens, "must be 1 or more")
        check(0 <= self.temperature <= 10, "generation.temperature", self.temperature, "must lie in 0..10")
        check(0 < self.top_p <= 1, "generation.top_p", self.top_p, "must lie in (0, 1]")
        check(self.top_k >= 0, "generation.top_k", self.top_k, "must be 0 (off) or more")
        check(
            0.1 <= self.repetition_penalty <= 10,
            "generation.repetition_penalty",
            self.repetition_penalty,
            "must lie in 0.1..10 (1 = off)",
        )
        size = self.batch_size
        check(size is None or size >= 1, "generation.batch_size", size, "must be 1 or more, or null for what fits")
        if self.temperature == 0 and (self.top_p < 1 or self.top_k > 0):
            raise ConfigError(
                f"generation.temperature=0 is greedy, so generation.top_p={self.top_p} and "
                f"generation.top_k={self.top_k} would do nothing: "
                "give a temperature above 0, or leave top_p=1 and top_k=0"
            )


# ------------------------------------------------------------------------------------------------ tasks


class PromptStyle(StrEnum):
    """How a question is put: chat template, or plain `Question: … Answer:` text."""

    chat = "chat"
    text = "text"


class Extractor(StrEnum):
    """Which number counts as the answer: only one after ####, or else the last number of the text."""

    strict = "strict"
    flexible = "flexible"


@dataclass
class TaskConfig:
    """What every task has."""

    name: str = MISSING


@dataclass
class Gsm8kConfig(TaskConfig):
    """Grade-school word problems: generate, extract the number, compare."""

    name: str = "gsm8k"
    data: str = inert("embedded", HASHED)
    split: str = "test"
    limit: int | None = 200
    prompt: PromptStyle = PromptStyle.chat
    shots: int = 0
    shots_data: str | None = inert(None, HASHED)
    extractor: Extractor = Extractor.strict
    system: str | None = None
    instruction: str = "Solve it step by step. End with '#### ' and the number."

    def __post_init__(self) -> None:
        check(
            self.limit is None or self.limit >= 1,
            "task.limit",
            self.limit,
            "must be 1 or more, or null for all",
        )
        check(self.shots >= 0, "task.shots", self.shots, "must be 0 or more")
        check(
            bool(self.data.strip()),
            "task.data",
            repr(self.data),
            "give embedded, a JSONL file or a dataset id",
        )
        if self.prompt is PromptStyle.text and self.system:
            raise ConfigError("task.system needs task.prompt=chat: plain text has no system message")


class Framing(StrEnum):
    """How a prompt reaches the model: as a user's turn in its chat template, or as the text that it is."""

    chat = "chat"
    raw = "raw"


@dataclass
class PromptsConfig(TaskConfig):
    """Shared keys of the tasks that complete the user's own prompts."""

    prompt: str | None = inert(None, "the SHA-256 of the prompts counts, however they were given")
    prompts: str | None = inert(None, HASHED)
    format: Framing = Framing.chat
    system: str | None = None
    stop: list[str] = field(default_factory=list)
    show: int = inert(20, "how many completions are printed")

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.prompts is None):
            given = "neither is given" if self.prompt is None else "both are given"
            raise ConfigError(
                f"task={self.name} needs either task.prompt=TEXT or task.prompts=FILE (.txt, .jsonl, or - for stdin): "
                f"{given}"
            )
        check(self.prompt is None or bool(self.prompt), "task.prompt", repr(self.prompt), "give a text")
        check(
            self.prompts is None or bool(self.prompts.strip()), "task.prompts", repr(self.prompts), "give a file, or -"
        )
        check(all(self.stop), "task.stop", self.stop, "an empty text would stop everything at once")
        check(self.show >= 0, "task.show", self.show, "must be 0 or more")
        if self.format is Framing.raw and self.system:
            raise ConfigError("task.system needs task.format=chat: a raw prompt has no system message")


@dataclass
class GenerateConfig(PromptsConfig):
    """Completions of the user's own prompts."""

    name: str = "generate"
    branches: list[str] | None = inert(None, "the SHA-256 of the prompts counts, and these are a part of them")
    output: str | None = inert(None, "where the completions lie, not what they are")
    overwrite: bool = inert(False, "whether another file may be replaced")
    debug: bool = inert(False, "says more about the first prompt")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self.output is None or bool(self.output.strip()), "task.output", repr(self.output), "give a file, or null"
        )
        need = "give the text that each branch begins with, or null for no branches"
        check(self.branches is None or bool(self.branches), "task.branches", self.branches, need)


@dataclass
class SweepConfig(TaskConfig):
    """Speed over batch sizes × prompt lengths."""

    name: str = "sweep"
    batch_sizes: list[int] = field(default_factory=lambda: [1, 4, 16])
    prompt_tokens: list[int] = field(default_factory=lambda: [64, 256])
    new_tokens: int = 32
    repeats: int = 3
    warmup: int = 1

    def __post_init__(self) -> None:
        for key, values in (("batch_sizes", self.batch_sizes), ("prompt_tokens", self.prompt_tokens)):
            check(bool(values), f"task.{key}", values, "give at least one number, e.g. [1,4,16]")
            check(all(value >= 1 for value in values), f"task.{key}", values, "every number must be 1 or more")
            check(len(set(values)) == len(values), f"task.{key}", values, "each number may stand only once")
        check(
            self.new_tokens >= 2,
            "task.new_tokens",
            self.new_tokens,
            "must be 2 or more: decoding starts at the 2nd",
        )
        check(self.repeats >= 1, "task.repeats", self.repeats, "must be 1 or more")
        check(self.warmup >= 0, "task.warmup", self.warmup, "must be 0 or more")


@dataclass
class MemoryConfig(TaskConfig):
    """Memory of import, load, prefill and decode in a fresh process, predicted next to measured."""

    name: str = "memory"
    batch_size: int = 8
    prompt_tokens: int = 256
    new_tokens: int = 32
    repeats: int = 3

    def __post_init__(self) -> None:
        for key in ("batch_size", "prompt_tokens", "repeats"):
            check(getattr(self, key) >= 1, f"task.{key}", getattr(self, key), "must be 1 or more")
        check(
            self.new_tokens >= 2,
            "task.new_tokens",
            self.new_tokens,
            "must be 2 or more: decoding starts at the 2nd",
        )


class Strategy(StrEnum):
    """How the layers go to the parts: all but by_type keep them in contiguous runs."""

    equal_layers = "equal_layers"
    balanced_params = "balanced_params"
    balanced_bytes = "balanced_bytes"
    ratios = "ratios"
    ranges = "ranges"
    by_type = "by_type"


class Checksums(StrEnum):
    """What every tensor and part is hashed with: xxh3_128 finds damage, sha256 also a forger; it is slower."""

    xxh3_128 = "xxh3_128"
    sha256 = "sha256"


class Compare(StrEnum):
    """How a part is known to be unchanged: by the state of its files (size, times, headers), or by reading them."""

    state = "state"
    content = "content"


class Explain(StrEnum):
    """What to say instead of splitting: the command line of another program that serves the same plan."""

    vllm = "vllm"


@dataclass
class SplitConfig(TaskConfig):
    """Cut a checkpoint into N parts by layer."""

    name: str = "split"
    num_parts: int | None = None
    strategy: Strategy = Strategy.balanced_bytes
    ratios: list[float] | None = None
    ranges: list[str] | None = None
    output_dir: str | None = None
    checksums: Checksums = Checksums.xxh3_128
    compare: Compare = inert(Compare.state, "decides which parts are written anew, not what is in them")
    durable: bool = inert(False, "whether the disk is waited for, not what is written")
    inline_parameters: bool = False
    explain: Explain | None = None

    def __post_init__(self) -> None:
        count = self.num_parts
        check(count is None or count >= 1, "task.num_parts", count, "must be 1 or more, or null")
        if self.output_dir is not None:
            check(bool(self.output_dir.strip()), "task.output_dir", repr(self.output_dir), "give a folder, or null")
        for strategy in (Strategy.ratios, Strategy.ranges):
            given = getattr(self, strategy.value)
            key = f"task.{strategy.value}"
            if self.strategy is not strategy:
                need = f"task.strategy={self.strategy.value} does not read it: use task.strategy={strategy.value}"
                check(given is None, key, given, f"{need}, or leave it out")
                continue
            example = "[0.3,0.7]" if strategy is Strategy.ratios else "[0-7,8-15]"
            check(bool(given), key, given, f"task.strategy={strategy.value} needs it, e.g. {key}={example}")
            need = f"{key} has {len(given)} entries: leave task.num_parts out, or let them agree"
            check(count in (None, len(given)), "task.num_parts", count, need)
        if self.strategy is Strategy.by_type:
            check(count is None, "task.num_parts", count, "task.strategy=by_type makes a part a kind: leave it out")
            need = "a pipeline needs whole layers in each part: use another task.strategy than by_type"
            check(self.explain is None, "task.explain", self.explain, need)
        if self.ratios is not None:
            check(all(0 < ratio <= 1 for ratio in self.ratios), "task.ratios", self.ratios, "each must lie in (0, 1]")
            total = sum(self.ratios)
            check(abs(total - 1) <= 1e-6, "task.ratios", self.ratios, f"they must add up to 1, not to {total:.6g}")
        for given in self.ranges or []:
            need = "give first-last, both included, or one number: task.ranges=[0-7,8-15]"
            check(re.fullmatch(r"[0-9]+(-[0-9]+)?", given) is not None, "task.ranges", given, need)


@dataclass
class MergeConfig(TaskConfig):
    """Put the parts of a split back together, bit for bit; dtype is only for numbers in JSON, which have none."""

    name: str = "merge"
    parts: str = inert(MISSING, HASHED)
    output_dir: str = MISSING
    dtype: Dtype = Dtype.float32


class VerifyLevel(StrEnum):
    """How much is read: sizes, headers and JSON only, or every byte against its digests."""

    quick = "quick"
    full = "full"


@dataclass
class VerifyConfig(TaskConfig):
    """Check every part against the manifest, and against the source where one is given."""

    name: str = "verify"
    parts: str = inert(MISSING, HASHED)
    source: str | None = None
    level: VerifyLevel = VerifyLevel.full

    def __post_init__(self) -> None:
        given = self.source is None or bool(self.source.strip())
        check(given, "task.source", repr(self.source), "give the folder or hub id that was split, or null")


class Archive(StrEnum):
    """How the parts lie in their folder: compressed, or as they are loaded."""

    zstd = "zstd"
    none = "none"


@dataclass
class ArchiveConfig(TaskConfig):
    """Pack the parts of a split for keeping, or unpack them for use."""

    name: str = "archive"
    parts: str = inert(MISSING, HASHED)
    output_dir: str = MISSING
    archive: Archive = Archive.zstd


@dataclass
class PipelineConfig(PromptsConfig):
    """Completions from the parts of a split, over several processes."""

    name: str = "pipeline"
    parts: str = inert(MISSING, HASHED)
    processes: int | None = inert(None, "the same stages in more or fewer processes compute the same")
    micro_batch: int | None = None
    timeout_s: float = inert(600.0, "ends a pipeline in which a process hangs")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.parts.strip()), "task.parts", repr(self.parts), "give the folder that task=split wrote")
        for key in ("processes", "micro_batch"):
            value = getattr(self, key)
            check(value is None or value >= 1, f"task.{key}", value, "must be 1 or more, or null")
        check(self.timeout_s > 0, "task.timeout_s", self.timeout_s, "must be more than 0 seconds")


# ------------------------------------------------------------------------------------- tracking, root


@dataclass
class TrackingConfig:
    """Where results are logged; uri null = sqlite in output_dir."""

    name: str = "sqlite"
    uri: str | None = None
    experiment: str = "runner"
    parent_run_id: str | None = None  # set by a grid, so that its jobs stand below it

    def __post_init__(self) -> None:
        check(bool(self.experiment.strip()), "tracking.experiment", repr(self.experiment), "give it a name")


@dataclass
class RunnerConfig:
    """One job, whole: a choice from every group and the keys that stand above them."""

    model: ModelConfig = MISSING
    quantization: QuantizationConfig = MISSING
    lora: LoraConfig = MISSING
    rope: RopeConfig = MISSING
    generation: GenerationConfig = MISSING
    task: TaskConfig = MISSING
    tracking: TrackingConfig = inert(MISSING, "where results are logged, not what they are")
    seed: int = 0
    output_dir: str = inert("outputs", "where results lie, not what they are")
    print: Print = inert(Print.table, "what is shown, not what is computed")
    plan: bool = inert(False, "shows what would be done and does nothing")
    rerun: bool | str = inert(False, "asks for the same job again")
    workers: str = inert("auto", "how many processes share a grid's jobs")
    job_timeout_s: float | None = inert(None, "ends a job of a grid that hangs")

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**63, "seed", self.seed, "must be a whole number from 0 to 2^63 - 1")
        check(self.rerun in (True, False, "failed", "all"), "rerun", self.rerun, "use false, failed or all (= true)")
        workers_ok = self.workers == "auto" or (self.workers.isdigit() and int(self.workers) >= 1)
        check(workers_ok, "workers", self.workers, "use auto, or a number from 1")
        timeout_ok = self.job_timeout_s is None or self.job_timeout_s > 0
        check(timeout_ok, "job_timeout_s", self.job_timeout_s, "must be more than 0 seconds, or null")
        if isinstance(self.lora, AdapterConfig) and self.lora.merge and self.quantization.name not in ("none", "gguf"):
            raise ConfigError(
                f"lora.merge=true with quantization={self.quantization.name}: merging into quantized weights "
                "loses precision; use lora.merge=false, or quantization=none"
            )


GROUPS: dict[str, dict[str, type[Any]]] = {
    "model": {"model": ModelConfig, "local": LocalConfig, "stub": StubConfig},
    "quantization": {
        "none": QuantizationConfig,
        "int8": Int8Config,
        "nf4": Nf4Config,
        "fp4": Fp4Config,
        "torchao_int8": TorchaoInt8Config,
        "gptq": GptqConfig,
        "awq": AwqConfig,
        "gguf": GgufConfig,
    },
    "lora": {"none": LoraConfig, "peft": PeftConfig, "pth": PthConfig},
    "rope": {
        "native": RopeConfig,
        "rope_2d": Rope2dConfig,
        "linear": RopeLinearConfig,
        "dynamic": RopeDynamicConfig,
        "yarn": RopeYarnConfig,
        "llama3": RopeLlama3Config,
    },
    "generation": {"generation": GenerationConfig},
    "task": {
        "gsm8k": Gsm8kConfig,
        "generate": GenerateConfig,
        "sweep": SweepConfig,
        "memory": MemoryConfig,
        "split": SplitConfig,
        "merge": MergeConfig,
        "verify": VerifyConfig,
        "archive": ArchiveConfig,
        "pipeline": PipelineConfig,
    },
    "tracking": {"tracking": TrackingConfig},
}


# What a study may say of its grid: sweeps by key, keys that advance together, combinations to leave out.
GRID: dict[str, Any] = {"params": {}, "zip": [], "exclude": []}


def register() -> None:
    """Hand every schema to Hydra, so that a YAML that extends it is type-checked.

    They stand under hydra/schema/GROUP, because `--help` and tab completion list what is outside hydra/ only.
    """
    from hydra.core.config_store import ConfigStore

    # Hydra deep-copies the store whenever it lists a group, and lists 60 groups for --help; listing changes nothing
    ConfigStore.__deepcopy__ = lambda self, _: self  # type: ignore[attr-defined]
    store = ConfigStore.instance()
    store.store(group="hydra/schema", name="runner", node=RunnerConfig, provider="runner")
    grid = {"_target_": "hydra_plugins.runner.GridSweeper", **GRID}
    workers = {"_target_": "hydra_plugins.runner.WorkerLauncher", "fresh": False}
    store.store(group="hydra/sweeper", name="grid", node=grid, provider="runner")
    store.store(group="hydra/launcher", name="workers", node=workers, provider="runner")
    for group, schemas in GROUPS.items():
        for name, schema in schemas.items():
            store.store(group=f"hydra/schema/{group}", name=name, node=schema, provider="runner")


def to_config(composed: Any) -> RunnerConfig:
    """Turn the composed YAML into checked dataclasses; a key that was forced in with + is refused here."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(composed)
    assert isinstance(config, RunnerConfig)
    _refuse_extra("", composed, config)
    return config


def _refuse_extra(prefix: str, composed: Any, checked: object) -> None:
    known = checked.__dataclass_fields__  # type: ignore[attr-defined]  # only called on dataclasses
    for key in map(str, composed):
        if key not in known:
            raise ConfigError(f"{prefix}{key}: {unknown('key', prefix + key, (prefix + name for name in known))}")
        if key in known and is_dataclass(getattr(checked, key)):
            _refuse_extra(f"{prefix}{key}.", composed[key], getattr(checked, key))


def base_key(config: RunnerConfig) -> str:
    """Say what has to be loaded for a job, adapters left out: jobs with the same key can share one loaded base."""
    parts = [config.model, config.quantization, config.rope]
    if isinstance(config.lora, AdapterConfig) and config.lora.merge:
        parts.append(config.lora)  # merging changes the base for good
    return repr(parts)


def semantic_keys(config: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (full key, value) for every key that can change the answer, i.e. is not marked inert."""
    assert is_dataclass(config)
    for item in fields(config):
        if "inert" in item.metadata:
            continue
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from semantic_keys(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value

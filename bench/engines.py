"""Shared by the benchmarks of the engine: one run per fresh process, its outcome, and tables with
spread.

The processes are `engine_side.py` (our engine, and transformers' `generate`) and `lmeval_side.py`.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config.resolved import resolve_job
from runner.config.root import NoTrackingConfig, RunnerConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base import machine
from runner_engine.checkpoints import random_weights
from runner_engine.embedded import MODEL_DIR
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.model import LocalModelConfig, ModelConfig
from runner_engine.settings.rope import RopeConfig

if TYPE_CHECKING:
    from runner_engine.local.engine import LocalEngine

HERE = Path(__file__).parent
ROOT = HERE.resolve().parent
MIXTURE: dict[str, Any] = {  # a Qwen3-MoE of 192M parameters, 4 of 32 experts a token
    "vocab_size": 49152, "hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 1536, "moe_intermediate_size": 256,
    "num_experts": 32, "num_experts_per_tok": 4, "norm_topk_prob": True, "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}  # fmt: skip
SIDES = {
    "stream": "engine_side.py",
    "plain": "engine_side.py",
    "generate": "engine_side.py",
    "generate_batch": "engine_side.py",
    "lmeval": "lmeval_side.py",
    "evalplus_hf": "evalplus_hf_side.py",
    "vllm": "vllm_side.py",
    "zentorch": "vllm_side.py",
    "openvino": "openvino_side.py",
    "llamacpp": "llamacpp_side.py",
}


@dataclass(frozen=True)
class Job:
    """The work of one fresh process."""

    kind: str  # of SIDES; stream: our engine, plain: our loop with a named attention, generate(_batch): transformers'
    folder: str
    dtype: str
    prompts: list[str] | list[list[int]]
    new_tokens: list[int]  # the limit of each prompt
    rows: int | None  # concurrent ones; None: the engine decides
    fixed: bool = True  # every row continues to its new_tokens, without stops
    stop: list[str] = field(default_factory=list)
    threads: int | None = None  # None: our engine decides
    order: str = "prompt"  # of generate's batches: given, prompt (longest first), answer (longest first)
    # parts of our engine: share, kernels, packed, fused
    off: list[str] = field(default_factory=list)
    limit_s: float | None = None  # lm-eval starts no further batch after this, llama.cpp no further step
    # of vLLM and OpenVINO, llama.cpp's file, our quantization
    settings: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"  # of our engine and of generate: cpu or cuda
    # the first so many prompts, one job each; of vLLM alone
    counts: list[int] = field(default_factory=list)


@dataclass
class Outcome:
    """The measurements and outputs of one run."""

    threads: int
    load_s: float
    total_s: float  # without loading
    prefill_s: float
    decode_s: float
    loaded_mib: float  # resident after loading
    peak_mib: float
    done: int  # prompts
    tokens: list[list[int]]  # new ones of each prompt; empty if time was up
    texts: list[str]
    prompts_sha256: str  # of the text that was really fed
    ids_sha256: list[str]  # of the token ids that were really fed, of each prompt
    positions: int  # tokens through the layers, padding and finished rows included
    logit_rows: int
    layer_parameters: int  # in linear layers, without the output layer
    head_parameters: int
    gflop_per_s: dict[str, float]  # the rate of products of these layers' shapes with 1024 rows
    notes: list[str]
    end: int | None = None  # the model's stop token
    # of each prompt; of our engine alone, as the next
    prompt_tokens: list[int] = field(default_factory=list)
    peak_rows: int = 0  # the most at once

    @property
    def matmul_fraction(self) -> float:
        """The share of the best rate of products that the whole run reached, without attention."""
        flop = 2 * (self.layer_parameters * self.positions + self.head_parameters * self.logit_rows)
        return flop / self.total_s / 1e9 / max(self.gflop_per_s.values())


def run_fresh(job: Job, python: str = sys.executable, more: Mapping[str, str] | None = None) -> Outcome:
    """Run a job in a process of its own, with more environment variables."""
    return Outcome(**answer_of(job, python, more))


def run_counts(job: Job, counts: Sequence[int], python: str = sys.executable) -> dict[int, Outcome]:
    """Run a job with its first so many prompts, for each count one after another in one process of
    vLLM."""
    answers = answer_of(replace(job, counts=list(counts)), python, None)
    return {count: Outcome(**one) for count, one in zip(counts, answers, strict=True)}


def answer_of(job: Job, python: str, more: Mapping[str, str] | None) -> Any:
    """Run a job in a process of its own, and return what it has written."""
    # importing the runner has set GOMP_SPINCOUNT here (see runner_base/__init__.py): all sides get
    # it, or none
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    environment |= more or {}
    environment["RUNNER_NATIVE"] = "0" if "kernels" in job.off else "1"
    if "packed" in job.off:
        environment["RUNNER_PRODUCTS"] = "plain"
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "job.json", Path(scratch) / "outcome.json"
        asked.write_text(json.dumps(asdict(job)))
        command = [python, str(HERE / SIDES[job.kind]), str(asked), str(answered)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"{job.kind}, {job.rows} rows at once, failed:\n{done.stderr[-2000:]}")
        return json.loads(answered.read_text())


def model_folder(name: str) -> Path:
    """Return the folder of `random` or `mixture` (with random weights), of `embedded`, or the
    folder itself."""
    if name == "random":
        shape = LocalModelConfig(name="HuggingFaceTB/SmolLM2-135M", shape="smollm2_135m", random_weights=True)
        return random_weights.ensure_random_checkpoint(shape)
    if name == "mixture":
        return _mixture()
    folder = MODEL_DIR if name == "embedded" else Path(name)
    if not (folder / "config.json").is_file():
        raise SystemExit(
            f"--model {name}: no model lies in {folder.absolute()}; use random, embedded or a FOLDER"
        )
    return folder


def _mixture() -> Path:
    """Return the folder of a mixture of experts with random weights, made at first use."""
    folder = (
        Path("~/.cache/runner/random_weights").expanduser()
        / f"mixture-{sha256(repr(MIXTURE).encode()).hexdigest()[:12]}"
    )
    if not folder.is_dir():
        import torch  # here, because most benchmarks leave it to the processes that they start
        from transformers import AutoModelForCausalLM, Qwen3MoeConfig

        torch.manual_seed(0)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".mixture-", dir=folder.parent))
        settings = Qwen3MoeConfig(**MIXTURE, **random_weights.read_special_token_ids())
        AutoModelForCausalLM.from_config(settings).to(torch.bfloat16).save_pretrained(partial)
        for tokenizer in random_weights.TOKENIZER_FILES:
            shutil.copyfile(MODEL_DIR / tokenizer, partial / tokenizer)
        partial.rename(folder)
    return folder


def greedy(
    model: ModelConfig,
    quantization: QuantizationConfig | None = None,
    max_new_tokens: int | None = None,
    kv_cache: KvCache = KvCache.as_model,
    prompt_cache_mib: int | None = None,
) -> RunnerConfig:
    """Return the config of an engine that decodes greedily and is used without a job."""
    generation = GenerationConfig(kv_cache=kv_cache, prompt_cache_mib=prompt_cache_mib)
    return RunnerConfig(
        model=model,
        quantization=quantization or QuantizationConfig(),
        lora=LoraConfig(),
        rope=RopeConfig(),
        generation=generation
        if max_new_tokens is None
        else replace(generation, max_new_tokens=max_new_tokens),
        task=Gsm8kConfig(),
        tracking=NoTrackingConfig(),
    )


def greedy_engine(
    model: LocalModelConfig,
    quantization: QuantizationConfig | None = None,
    max_new_tokens: int | None = None,
    kv_cache: KvCache = KvCache.as_model,
    prompt_cache_mib: int | None = None,
) -> LocalEngine:
    """Return an engine of such a config in this process, not yet loaded."""
    from runner_engine.local.engine import LocalEngine  # imports torch

    config = greedy(model, quantization, max_new_tokens, kv_cache, prompt_cache_mib)
    return LocalEngine(resolve_job(config).model)


def random_prompts(
    engine: LocalEngine, count: int, tokens: int, chance: random.Random
) -> list[tuple[int, ...]]:
    """Return prompts of random tokens of a loaded engine's model."""
    vocabulary = engine.loaded.model.config.vocab_size
    return [tuple(chance.randrange(vocabulary) for _ in range(tokens)) for _ in range(count)]


def complete_random(
    engine: LocalEngine, count: int, prompt_tokens: int, new_tokens: int, chance: random.Random
) -> None:
    """Complete so many concurrent prompts of random tokens."""
    prompts = random_prompts(engine, count, prompt_tokens, chance)
    requests = [
        Request(number, one, max_new_tokens=new_tokens, ignore_eos=True) for number, one in enumerate(prompts)
    ]
    failed = [done.error for done in complete_requests(engine, requests, count) if done.error]
    if failed:
        raise SystemExit(f"{len(failed)} prompts failed, e.g. {failed[0]}")


@dataclass(frozen=True)
class Speeds:
    """How fast some concurrent prompts were completed, and what their keys and values took."""

    prefill_tok_per_s: float
    decode_tok_per_s: float
    tok_per_processor_s: float  # of both; other work on the machine changes it least
    kv_mib: float


def speeds_by_turns(
    engines: Mapping[str, LocalEngine], rows: Sequence[int], prompt_tokens: int, new_tokens: int, rounds: int
) -> dict[tuple[str, int], list[Speeds]]:
    """Return what each engine reaches with each number of rows, round by round and batch by batch
    in turns."""
    chance = random.Random(0)
    measured: dict[tuple[str, int], list[Speeds]] = defaultdict(list)
    for _ in range(rounds):
        for count in rows:
            for name, engine in engines.items():
                engine.stats.peak_kv_bytes = 0
                before, spent = replace(engine.stats), time.process_time()
                complete_random(engine, count, prompt_tokens, new_tokens, chance)
                passed, spent = engine.stats - before, time.process_time() - spent
                tokens = passed.prefill_tokens + passed.decode_tokens
                kv_mib = engine.stats.peak_kv_bytes / machine.MIB
                figures = Speeds(passed.prefill_tok_per_s, passed.decode_tok_per_s, tokens / spent, kv_mib)
                measured[name, count].append(figures)
    return measured


def head_line(command: Sequence[str], threads: int) -> str:
    about, versions = machine.describe_machine(), machine.library_versions()
    where = f"{about['cpu']}, {about['cores']} cores, threads: {threads} ({_waiting()})"
    return (
        f"`python {shlex.join(command)}`\n{where}, torch {versions['torch']}, transformers "
        f"{versions['transformers']}"
    )


def _waiting() -> str:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    return ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)


def spread(values: Sequence[float], digits: int | None = None) -> str:
    """Return median, least and most, with more digits for small numbers."""
    least, middle, most = min(values), statistics.median(values), max(values)
    digits = (1 if middle >= 10 else 2) if digits is None else digits
    return f"{middle:,.{digits}f} ({least:,.{digits}f}..{most:,.{digits}f})"


def ratios(slow: Sequence[Outcome], fast: Sequence[Outcome]) -> list[float]:
    """Return the ratios of the times, run by run."""
    return [one.total_s / other.total_s for one, other in zip(slow, fast, strict=True)]


def per_prompt_ms(outcomes: Sequence[Outcome]) -> list[float]:
    """Return the milliseconds per prompt of each run."""
    return [outcome.total_s / outcome.done * 1000 for outcome in outcomes]


def same_tokens(one: Outcome, other: Outcome) -> int:
    """Count outputs that are identical token for token; the other run may have only the first
    prompts."""
    return sum(a == b for a, b in zip(one.tokens[: other.done], other.tokens, strict=True))


def check_prompts(outcomes: Sequence[Outcome]) -> None:
    """Check that all runs were fed the same prompts, by bytes and by token ids."""
    for outcome in outcomes:
        if outcome.prompts_sha256 != outcomes[0].prompts_sha256:
            raise SystemExit("the prompts differ by their bytes: nothing can be compared")
        if outcome.ids_sha256 != outcomes[0].ids_sha256:
            raise SystemExit("the prompts differ by their token ids: nothing can be compared")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is words and whose others are numbers."""
    lines = [list(head), ["---", *("---:" for _ in head[1:])], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""Jobs over the parts of a split and over the whole model, and their answers, which must be
equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.config.prompts import Framing
from runner.config.root import RunnerConfig
from runner.options.parts.model_keys import PartsModelConfig
from runner.records.jobs import read_samples
from runner.run import run
from runner.tasks.generate.keys import GenerateConfig
from runner_base.dtypes import Dtype
from runner_base.result import Record, Sample
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig, ModelConfig

Make = Callable[..., RunnerConfig]
CPU: dict[str, Any] = {"device": "cpu", "dtype": Dtype.float32}
GREEDY = GenerationConfig(max_new_tokens=12)
SAMPLED = GenerationConfig(max_new_tokens=12, temperature=1.0, top_k=30, top_p=0.9, repetition_penalty=1.1)


def in_parts(parts: Path | str, **keys: Any) -> PartsModelConfig:
    """Return a config of the parts, in this process unless the keys say otherwise."""
    plain: dict[str, Any] = {"name": str(parts), "stages": 1}
    return PartsModelConfig(**(plain | CPU | keys))


def whole(model: Path | str) -> LocalModelConfig:
    """Return a config of the model that was split."""
    return LocalModelConfig(name=str(model), **CPU)


def generate(
    make_config: Make, model: ModelConfig, prompts: str, generation: GenerationConfig = GREEDY, **keys: Any
) -> Record:
    """Complete the raw prompts of a file."""
    task = GenerateConfig(prompts=prompts, format=Framing.raw, **keys)
    return run(make_config(model=model, task=task, generation=generation))


def samples(record: Record) -> list[Sample]:
    """Return the samples of a job, in order."""
    by_index = read_samples(Path(record.output_dir) / "samples.jsonl")
    return [by_index[index] for index in sorted(by_index)]


def answers(record: Record) -> list[tuple[Any, ...]]:
    """Return each sample's prompt and answer."""
    return [(one.index, one.prompt_sha256, one.answer) for one in samples(record)]


def prompt_file(folder: Path) -> str:
    """Write prompts of many lengths, and return the file."""
    texts = [
        "one",
        "a longer prompt than the others are",
        "xy",
        "to be or not",
        "7 times 8 is",
        "end",
        "so",
        "why not",
    ]
    file = folder / "prompts.txt"
    file.write_text("".join(f"{text}\n" for text in texts))
    return str(file)

"""Real prompts for a sweep, from a data set or file, instead of random tokens.

The prompts are sent in order, each once before any is repeated: a model that caches prompts would
otherwise save work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import median

from runner.config.measures import SweepConfig
from runner.config.prompts import Framing, PromptsConfig
from runner.config.questions import QuestionsConfig
from runner.datasets.prompts import (
    BranchedPrompt,
    convert_prompt_to_task_format,
    describe_prompts,
    hash_prompts,
    is_prompt_file,
    load_user_prompts,
)
from runner.datasets.questions import describe_dataset, load_questions
from runner_base import ConfigError
from runner_base.errors import rename_config_keys_in_error
from runner_base.notes import Note, note
from runner_engine import Completion, Engine, Prompt, Request

MAX_PROMPTS = 1000  # of a data set: a sweep of the default size needs 126


@dataclass
class RealPrompts:
    """The real prompts of a sweep, and how many of them have been sent."""

    name: str
    prompts: list[Prompt]
    sha256: str  # of all of them, with the format
    data: dict[str, str]  # the data set's description for MLflow
    lengths: list[int] = field(default_factory=list)  # of the sent prompts, in tokens
    left_out: int = 0  # too long for the model
    _taken: int = 0

    def omit_too_long_prompts(self, engine: Engine, max_tokens: float, new_tokens: int) -> None:
        """Omit prompts that exceed the context length. Has no effect if the context length is unknown."""
        fits = [
            len(engine.encode(Request(0, prompt))[1]) + new_tokens <= max_tokens for prompt in self.prompts
        ]
        self.left_out = fits.count(False) if max_tokens < inf else 0
        if self.left_out == len(self.prompts):
            raise ConfigError(
                (
                    f"none of the {len(fits):,} prompts fits with task.new_tokens={new_tokens} "
                    f"into the model's context length of {max_tokens:.0f} tokens"
                ),
                key="task.prompts",
                value=self.name,
                code="too_large",
            )
        if self.left_out:
            self.prompts = [prompt for prompt, is_short in zip(self.prompts, fits, strict=True) if is_short]

    def take_next_prompt_batch(self, count: int, new_tokens: int) -> list[Request]:
        positions = range(self._taken, self._taken + count)
        self._taken += count
        chosen = (self.prompts[position % len(self.prompts)] for position in positions)
        return [
            Request(id=row, prompt=prompt, max_new_tokens=new_tokens, ignore_eos=True, timed=True)
            for row, prompt in enumerate(chosen)
        ]

    def skip_sent_prompts(self, num_prompts: int, prompt_lengths: Sequence[int]) -> None:
        self._taken += num_prompts
        self.lengths += prompt_lengths

    def record_prompt_lengths(self, completions: Sequence[Completion]) -> list[int]:
        lengths = [completion.prompt_tokens for completion in completions]
        self.lengths += lengths
        return lengths

    @property
    def median_length(self) -> int:
        return round(median(self.lengths)) if self.lengths else 0

    @property
    def description(self) -> str:
        return (
            f"{self.name} · {len(self.prompts):,} prompts · {format_length_range(self.lengths)} "
            f"tokens, median {self.median_length:,}"
        )

    @property
    def notes(self) -> list[Note]:
        notes = [note("prompts_too_long", count=self.left_out)] * bool(self.left_out)
        if self._taken > len(self.prompts):
            notes.append(note("prompts_repeated", "warning", sent=self._taken, total=len(self.prompts)))
        return notes


def format_length_range(lengths: Sequence[int]) -> str:
    return f"{min(lengths):,}–{max(lengths):,}" if lengths else "unknown"


def read_sweep_prompts(task: SweepConfig) -> RealPrompts | None:
    if task.prompts is None:
        return None
    prompts_config = PromptsConfig(prompts=task.prompts, format=task.format)
    path = Path(task.prompts).expanduser()
    if path.suffix == ".txt" or (path.suffix == ".jsonl" and path.is_file() and is_prompt_file(path)):
        raw_prompts = load_user_prompts(prompts_config)[:MAX_PROMPTS]
        if any(isinstance(raw_prompt, BranchedPrompt) for raw_prompt in raw_prompts):
            raise ConfigError(
                "task=sweep does not support prompts with branches. Remove the branches from the file",
                key="task.prompts",
                value=task.prompts,
                code="unsupported",
            )
        name, data = path.name, describe_prompts(prompts_config, hash_prompts(raw_prompts))
    else:
        raw_prompts = [*_read_data_set_questions(task)]
        data = describe_dataset(task.prompts, task.split, hash_prompts(raw_prompts))
        name = data["name"]
    hashed = f"{hash_prompts(raw_prompts)} {task.format.value}"
    prompts = [convert_prompt_to_task_format(prompts_config, raw_prompt) for raw_prompt in raw_prompts]
    format_words = "as chats" if task.format is Framing.chat else "as raw text"
    return RealPrompts(
        f"{name}, {format_words}", prompts, hashlib.sha256(json.dumps(hashed).encode()).hexdigest(), data
    )


def _read_data_set_questions(task: SweepConfig) -> list[str]:
    """Return the first questions of a data set, without a prompt template."""
    questions = QuestionsConfig(data=str(task.prompts), split=task.split, limit=MAX_PROMPTS)
    try:
        return [item.question for item in load_questions(questions)]
    except ConfigError as error:  # the message names the key of tasks that score
        raise rename_config_keys_in_error(error, {"task.data": "task.prompts"}) from error

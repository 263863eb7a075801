"""Prompts of a data set or of a file for a sweep, instead of random tokens: with their own lengths
and words.

They are sent in order, each once before any is repeated: a model that caches prompts would
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
from runner.datasets.gsm8k import describe_questions, load_questions
from runner.datasets.prompts import (
    Branched,
    build_prompt,
    describe_prompts,
    holds_prompts,
    load_prompts,
    prompts_sha256,
)
from runner_base import ConfigError
from runner_base.errors import rename_keys
from runner_base.notes import Note, note
from runner_engine import Completion, Engine, Prompt, Request

MAX_PROMPTS = 1000  # of a data set: a sweep of the default size needs 126


@dataclass
class RealPrompts:
    """The prompts of a sweep, and which of them have been sent."""

    name: str
    prompts: list[Prompt]
    sha256: str  # of all of them, with the format
    data: dict[str, str]  # the data set's description for MLflow
    lengths: list[int] = field(default_factory=list)  # of the sent prompts, in tokens
    left_out: int = 0  # too long for the model
    _taken: int = 0

    def fit(self, engine: Engine, room: float, new_tokens: int) -> None:
        """Leave out prompts that are too long for the loaded model; a server's token counts are
        unknown."""
        fits = [len(engine.encode(Request(0, prompt))[1]) + new_tokens <= room for prompt in self.prompts]
        self.left_out = fits.count(False) if room < inf else 0
        if self.left_out == len(self.prompts):
            raise ConfigError(
                f"none of its {len(fits):,} prompts with task.new_tokens={new_tokens} more "
                f"fits into the {room:.0f} tokens that the model has room for",
                key="task.prompts",
                value=self.name,
                code="too_large",
            )
        if self.left_out:
            self.prompts = [prompt for prompt, is_short in zip(self.prompts, fits, strict=True) if is_short]

    def take(self, count: int, new_tokens: int) -> list[Request]:
        """Return the next prompts as a batch in which each row decodes `new_tokens`."""
        positions = range(self._taken, self._taken + count)
        self._taken += count
        chosen = (self.prompts[position % len(self.prompts)] for position in positions)
        return [
            Request(id=row, prompt=prompt, max_new_tokens=new_tokens, ignore_eos=True, timed=True)
            for row, prompt in enumerate(chosen)
        ]

    def skip(self, count: int, lengths: Sequence[int]) -> None:
        """Leave out the next prompts: an earlier start has sent them, and knows their lengths."""
        self._taken += count
        self.lengths += lengths

    def note(self, completions: Sequence[Completion]) -> list[int]:
        """Record and return the lengths of sent prompts, as the engine or the server counts
        them."""
        lengths = [completion.prompt_tokens for completion in completions]
        self.lengths += lengths
        return lengths

    @property
    def typical(self) -> int:
        """The median length of the sent prompts."""
        return round(median(self.lengths)) if self.lengths else 0

    @property
    def described(self) -> str:
        """The prompts' name, number and lengths."""
        return f"{self.name} · {len(self.prompts):,} prompts · {span(self.lengths)} tokens, median {self.typical:,}"

    @property
    def notes(self) -> list[Note]:
        """Notes for a reader of the numbers."""
        notes = [note("prompts_too_long", count=self.left_out)] * bool(self.left_out)
        if self._taken > len(self.prompts):
            notes.append(note("prompts_repeated", "warning", sent=self._taken, total=len(self.prompts)))
        return notes


def span(lengths: Sequence[int]) -> str:
    """Write the shortest and the longest."""
    return f"{min(lengths):,}–{max(lengths):,}" if lengths else "unknown"


def read(task: SweepConfig) -> RealPrompts | None:
    """Return the prompts that the task names; None for random tokens."""
    if task.prompts is None:
        return None
    prompts_config = PromptsConfig(prompts=task.prompts, format=task.format)
    path = Path(task.prompts).expanduser()
    if path.suffix == ".txt" or (path.suffix == ".jsonl" and path.is_file() and holds_prompts(path)):
        raw_prompts = load_prompts(prompts_config)[:MAX_PROMPTS]
        if any(isinstance(raw_prompt, Branched) for raw_prompt in raw_prompts):
            raise ConfigError(
                "branches: task=sweep has none, leave them out of its lines",
                key="task.prompts",
                value=task.prompts,
                code="unsupported",
            )
        name, data = path.name, describe_prompts(prompts_config, prompts_sha256(raw_prompts))
    else:
        raw_prompts = [*_questions(task)]
        data = describe_questions(task.prompts, task.split, prompts_sha256(raw_prompts))
        name = data["name"]
    hashed = f"{prompts_sha256(raw_prompts)} {task.format.value}"
    prompts = [build_prompt(prompts_config, raw_prompt) for raw_prompt in raw_prompts]
    format_words = "as chats" if task.format is Framing.chat else "as raw text"
    return RealPrompts(
        f"{name}, {format_words}", prompts, hashlib.sha256(json.dumps(hashed).encode()).hexdigest(), data
    )


def _questions(task: SweepConfig) -> list[str]:
    """Return the first questions of a data set, unchanged."""
    questions = QuestionsConfig(data=str(task.prompts), split=task.split, limit=MAX_PROMPTS)
    try:
        return [item.question for item in load_questions(questions)]
    except ConfigError as error:  # the message names the key of tasks that score
        raise rename_keys(error, {"task.data": "task.prompts"}) from error

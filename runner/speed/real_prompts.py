"""Prompts of a data set or of a file for a sweep, in place of random tokens: with their own lengths and words.

They are put in their order, each once before one is put again: a model that keeps prompts would otherwise save work.
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
from runner.config.task import Framing, PromptsConfig, QuestionsConfig
from runner.core.errors import ConfigError
from runner.datasets.gsm8k import describe as describe_questions
from runner.datasets.gsm8k import load_questions
from runner.datasets.prompts import Branched, build_prompt, holds_prompts, load_prompts, prompts_sha256
from runner.datasets.prompts import describe as describe_file
from runner.engines.base import Completion, Engine, Prompt, Request

MOST = 1000  # of a data set: a sweep of the default size needs 126


@dataclass
class RealPrompts:
    """The prompts of a sweep, and what has been put of them."""

    named: str
    prompts: list[Prompt]
    sha256: str  # of all of them, and how they are put
    data: dict[str, str]  # the data set, as MLflow keeps it
    lengths: list[int] = field(default_factory=list)  # of those that were put, in tokens
    left_out: int = 0  # too long for the model
    _taken: int = 0

    def fit(self, engine: Engine, room: float, new_tokens: int) -> None:
        """Leave out what is too long for the loaded model; what tokens a server makes of a prompt is not known."""
        fits = [len(engine.encode(Request(0, prompt))[1]) + new_tokens <= room for prompt in self.prompts]
        self.left_out = fits.count(False) if room < inf else 0
        if self.left_out == len(self.prompts):
            raise ConfigError(
                f"task.prompts={self.named}: none of its {len(fits):,} prompts with task.new_tokens={new_tokens} more "
                f"fits into the {room:.0f} tokens that the model has room for"
            )
        if self.left_out:
            self.prompts = [prompt for prompt, is_short in zip(self.prompts, fits, strict=True) if is_short]

    def take(self, count: int, new_tokens: int) -> list[Request]:
        """Return the next prompts as a batch whose rows all decode new_tokens."""
        places = range(self._taken, self._taken + count)
        self._taken += count
        chosen = (self.prompts[place % len(self.prompts)] for place in places)
        return [
            Request(id=row, prompt=prompt, max_new_tokens=new_tokens, ignore_eos=True)
            for row, prompt in enumerate(chosen)
        ]

    def note(self, completions: Sequence[Completion]) -> list[int]:
        """Keep the lengths of prompts that were put, as the engine or the server counts them; return these."""
        lengths = [completion.prompt_tokens for completion in completions]
        self.lengths += lengths
        return lengths

    @property
    def typical(self) -> int:
        """The median length of those that were put."""
        return round(median(self.lengths)) if self.lengths else 0

    @property
    def words(self) -> str:
        """Say which prompts they are, how many, and how long."""
        return f"{self.named} · {len(self.prompts):,} prompts · {span(self.lengths)} tokens, median {self.typical:,}"

    @property
    def notes(self) -> list[str]:
        """Say what a reader of the numbers has to know."""
        notes = [f"{self.left_out:,} prompts were left out: they are too long for the model"] * bool(self.left_out)
        if self._taken > len(self.prompts):
            notes.append(
                f"{self._taken:,} prompts were put and {len(self.prompts):,} are there, so some came again: what keeps "
                "prompts may have saved work"
            )
        return notes


def span(lengths: Sequence[int]) -> str:
    """Write the shortest and the longest."""
    return f"{min(lengths):,}–{max(lengths):,}" if lengths else "unknown"


def read(task: SweepConfig) -> RealPrompts | None:
    """Return the prompts that the task names; None where they are random tokens."""
    if task.prompts is None:
        return None
    asked = PromptsConfig(prompts=task.prompts, format=task.format)
    path = Path(task.prompts).expanduser()
    if path.suffix == ".txt" or (path.suffix == ".jsonl" and path.is_file() and holds_prompts(path)):
        given = load_prompts(asked)[:MOST]
        if any(isinstance(one, Branched) for one in given):
            raise ConfigError(
                f"task.prompts={task.prompts}: branches: task=sweep has none, leave them out of its lines"
            )
        named, data = path.name, describe_file(asked, prompts_sha256(given))
    else:
        given = [*_questions(task)]
        data = describe_questions(task.prompts, task.split, prompts_sha256(given))
        named = data["name"]
    put = f"{prompts_sha256(given)} {task.format.value}"
    prompts = [build_prompt(asked, one) for one in given]
    how = "as chats" if task.format is Framing.chat else "as raw text"
    return RealPrompts(f"{named}, {how}", prompts, hashlib.sha256(json.dumps(put).encode()).hexdigest(), data)


def _questions(task: SweepConfig) -> list[str]:
    """Return the first questions of a data set, as they stand."""
    questions = QuestionsConfig(data=str(task.prompts), split=task.split, limit=MOST)
    try:
        return [item.question for item in load_questions(questions)]
    except ConfigError as error:  # it names the key of the tasks that score
        raise type(error)(str(error).replace("task.data=", "task.prompts=")) from error

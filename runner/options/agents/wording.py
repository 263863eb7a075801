"""Loads the agents' prompt texts from wording.yaml, by prompt style and by kind of answer (number or letter).

Texts for letters default to those for numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from runner.options.agents.keys import PromptStyle, Role


@dataclass
class PromptTexts:
    """Prompt texts of one prompt style. `{…}` marks placeholders."""

    heads: dict[Role, str]
    decision: str  # the head of the deciding agent
    question: str
    numbers_now: str  # hints for roles that get numbers only: of this round, of the previous one
    numbers_before: str
    texts_now: str  # before the neighbours' texts
    texts_before: str
    texts_last: str  # the same for the decision
    said_now: str  # one neighbour: of this round, of the previous one
    said_before: str
    code_gives: str
    code_failed: str
    in_one_line: bool  # each neighbour's text on a line of its own; else its lines are set off with "> "
    longest: int  # characters of a neighbour's text; a longer one loses its middle
    # each a question and a reply
    examples: dict[Role, list[dict[str, str]]] = field(default_factory=dict)


@cache
def load_prompt_texts(domain: PromptStyle, expects_letter: bool = False) -> PromptTexts:
    """Return the prompt texts of a prompt style. `expects_letter` selects the texts for multiple-choice
    questions.
    """
    texts: Any = OmegaConf.load(Path(__file__).with_suffix(".yaml"))
    OmegaConf.resolve(texts)
    kinds = [
        OmegaConf.structured(PromptTexts),
        texts.numbers[domain],
        *([texts.letters[domain]] if expects_letter else []),
    ]
    merged: PromptTexts = OmegaConf.to_object(OmegaConf.merge(*kinds))  # type: ignore[assignment]
    return merged

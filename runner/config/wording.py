"""How a question of a data set is worded for a model: the keys that tasks with questions share, and
their checks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from runner_base import ConfigError, Text, check, unknown


def for_letters(instruction: str) -> str:
    """Return the usual instruction for answers that are letters of choices."""
    return instruction.replace("number", "letter")


FOR_EXPRESSIONS = "Solve it step by step, and put your final answer within \\boxed{}."


class PromptStyle(StrEnum):
    """The form of a question: chat template, plain `Question: … Answer:` text, or what
    lm-evaluation-harness sends."""

    chat = "chat"
    text = "text"
    lm_eval_5shot = "lm_eval_5shot"


@dataclass
class WordingConfig:
    """The keys. A task's config inherits from this class too, and calls `check_wording` with its
    own checks."""

    prompt: PromptStyle = PromptStyle.chat
    template: Text | None = None
    system: Text | None = None
    instruction: Text = "Solve it step by step. End with '#### ' and the number."

    def check_wording(self) -> None:
        """Raise ConfigError where these keys cannot work."""
        if self.prompt is not PromptStyle.chat and self.system:
            raise ConfigError(
                "task.system needs task.prompt=chat: plain text has no system message", code="conflict"
            )
        if self.template is not None:
            _check_template(self.template)


def _check_template(template: str) -> None:
    """Reject a template without {question}; braces around anything else are text, as in
    \\boxed{}."""
    names, shown = ("question", "instruction"), repr(template)
    for name in re.findall(r"\{ *(\w+) *\}", template):
        is_typo = name not in names and get_close_matches(name.lower(), names, cutoff=0.75)
        check(not is_typo, "task.template", shown, unknown("name", name, names), code="unknown_choice")
    check(
        "{question}" in template,
        "task.template",
        shown,
        "{question} must stand where the question goes",
        code="missing",
    )

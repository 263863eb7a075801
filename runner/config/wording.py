"""Config keys that define the prompt of a question, such as template and system message."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from runner_base import ConfigError, Text, check_value, format_unknown_choice_message


def default_letter_instruction(instruction: str) -> str:
    """Return the default instruction for multiple-choice questions, where the answer is a letter."""
    return instruction.replace("number", "letter")


FOR_EXPRESSIONS = "Solve it step by step, and put your final answer within \\boxed{}."


class PromptStyle(StrEnum):
    """Style of a question's prompt: a chat, the text `Question: … Answer:`, or lm-eval's format."""

    chat = "chat"
    text = "text"
    lm_eval_5shot = "lm_eval_5shot"


@dataclass
class WordingConfig:
    """Mixin for task configs with the keys that define a question's prompt."""

    prompt: PromptStyle = PromptStyle.chat
    template: Text | None = None
    system: Text | None = None
    instruction: Text = "Solve it step by step. End with '#### ' and the number."

    def reject_conflicting_prompt_keys(self) -> None:
        """Raise ConfigError if task.system conflicts with task.prompt, or task.template is invalid."""
        if self.prompt is not PromptStyle.chat and self.system:
            raise ConfigError(
                "task.system needs task.prompt=chat, because plain text has no system message",
                code="conflict",
            )
        if self.template is not None:
            _validate_prompt_template(self.template)


def _validate_prompt_template(template: str) -> None:
    """Reject a prompt template without {question} or with a misspelt placeholder."""
    names, shown = ("question", "instruction"), repr(template)
    for name in re.findall(r"\{ *(\w+) *\}", template):
        is_typo = name not in names and get_close_matches(name.lower(), names, cutoff=0.75)
        check_value(
            not is_typo,
            "task.template",
            shown,
            format_unknown_choice_message("name", name, names),
            code="unknown_choice",
        )
    check_value(
        "{question}" in template,
        "task.template",
        shown,
        "must contain {question}, which is replaced by the question",
        code="missing",
    )

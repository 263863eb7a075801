"""Describes a job's prompts in its record, such as `chat · 5 worked examples · form 0123abcd`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

TWO_BOS = "begins with two BOS"
BEGINNINGS = ("without BOS", "begins with BOS", TWO_BOS)  # by how many BOS tokens
SEPARATOR, OF_FORM = " · ", "form "


@dataclass(frozen=True)
class PromptFact:
    description: tuple[str, ...]  # style, worked examples
    form: str | None = None  # the hash of a prompt without its question
    beginning: str | None = None  # None: which tokens a prompt has is not known

    def to_fact(self) -> str:
        form = None if self.form is None else f"{OF_FORM}{self.form}"
        return SEPARATOR.join(filter(None, (*self.description, form, self.beginning)))

    @classmethod
    def from_fact(cls, text: str) -> Self:
        parts = text.split(SEPARATOR)
        beginning = parts.pop() if parts[-1] in BEGINNINGS else None
        form = parts.pop().removeprefix(OF_FORM) if parts and parts[-1].startswith(OF_FORM) else None
        return cls(tuple(parts), form, beginning)

    @property
    def has_two_bos(self) -> bool:
        return self.beginning == TWO_BOS

"""How the next tokens of a row are guessed, before the model checks several of them in one pass.

`generation.speculate` is a short name (off, auto, ngram, draft, mtp) or a mapping ({kind: draft, layers:
10, tokens: 3}); `str` of what it means is the shortest text that says the same, by which jobs are
told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import lru_cache
from typing import Any, ClassVar

from runner_base import ConfigError
from runner_base.errors import Code
from runner_base.notes import Note, note

KEY = "generation.speculate"
USUAL_TOKENS = 3  # of a guess
MOST_TOKENS = 16  # fewer than the places before a window that stay for guesses that turn out wrong
DRAFT_QUANTIZATION = "nf4"  # of a draft of the same model, where nothing else makes it smaller


class Guesser(StrEnum):
    """Who guesses; `auto` and `off` never change how an answer is made, and the others always
    guess."""

    off = "off"  # nobody
    auto = "auto"  # prompt lookup for a few greedy rows, while it saves time
    ngram = "ngram"  # prompt lookup at every step of every row
    draft = "draft"  # a smaller model, at every step of every row
    mtp = "mtp"  # the model's own head for several tokens (MTP), at every step of every row


@dataclass(frozen=True)
class Speculate:
    """How tokens are guessed."""

    kind: Guesser = Guesser.auto
    tokens: int = USUAL_TOKENS  # of a guess at most
    model: str | None = None  # of the draft: a folder, a .gguf file or a hub id; None: the same
    quantization: str | None = None  # of the draft; None: as its files are, or as the model itself
    layers: int | None = None  # only so many first layers of the draft; None: all of them

    auto: ClassVar[Speculate]
    off: ClassVar[Speculate]
    ngram: ClassVar[Speculate]
    draft: ClassVar[Speculate]
    mtp: ClassVar[Speculate]

    @classmethod
    def of(cls, value: object) -> Speculate:
        """Return what a value of the key means; ConfigError where it means nothing."""
        if isinstance(value, Speculate):
            return value
        if isinstance(value, bool):  # YAML's off
            value = "auto" if value else "off"
        return _of_mapping(value) if isinstance(value, Mapping) else _of_text(str(value))

    @property
    def is_steady(self) -> bool:
        """Whether tokens are guessed at every step, whatever the clock says."""
        return self.kind not in (Guesser.off, Guesser.auto)

    @property
    def fact(self) -> Note:
        """Who guesses, for a job's result."""
        if self.kind is Guesser.mtp:
            return note("own_head_guesses", tokens=self.tokens)
        if self.kind is not Guesser.draft:
            return note("followed_before", tokens=self.tokens)
        return note(
            "draft_guesses",
            tokens=self.tokens,
            model=self.model,
            quantization=self.quantization,
            layers=self.layers,
        )

    def __str__(self) -> str:
        name = next((name for name, known in SHORT_NAMES.items() if known == self), None)
        if name is not None:
            return name
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        usual = {"tokens": USUAL_TOKENS}
        return _flow({name: value for name, value in given.items() if value not in (None, usual.get(name))})


Speculate.auto = Speculate()
Speculate.off = Speculate(Guesser.off)
Speculate.ngram = Speculate(Guesser.ngram)
Speculate.draft = Speculate(Guesser.draft, quantization=DRAFT_QUANTIZATION)
Speculate.mtp = Speculate(Guesser.mtp)
SHORT_NAMES: dict[str, Speculate] = {
    name: getattr(Speculate, name) for name in ("auto", "off", "ngram", "draft", "mtp")
}
INERT = ("auto", "off")  # values that change no answer and no part of how it is made


@lru_cache(maxsize=64)
def _of_text(text: str) -> Speculate:
    if text in SHORT_NAMES:
        return SHORT_NAMES[text]
    if text == "none":
        return Speculate.off
    if text.startswith("{"):
        import yaml

        try:
            read = yaml.safe_load(text)
        except yaml.YAMLError:
            read = None
        if isinstance(read, Mapping):
            return _of_mapping(read)
    raise _wrong(text, "", "unknown_choice")


def _of_mapping(given: Mapping[Any, Any]) -> Speculate:
    known = [item.name for item in fields(Speculate)]
    if unknown := [str(name) for name in given if name not in known]:
        raise _wrong(_flow(given), f"it has no key {unknown[0]}", "unknown_choice")
    kind = given.get("kind", Guesser.draft)
    if kind in ("none", False):
        kind = Guesser.off
    if kind not in [*Guesser]:
        raise _wrong(
            _flow(given), f"kind is {kind!r}, and must be one of {', '.join(Guesser)}", "unknown_choice"
        )
    kind = Guesser(str(kind))
    tokens, layers = given.get("tokens", USUAL_TOKENS), given.get("layers")
    if type(tokens) is not int or not 1 <= tokens <= MOST_TOKENS:
        raise _wrong(_flow(given), f"tokens is {tokens!r}, and must lie in 1..{MOST_TOKENS}", "bad_value")
    if layers is not None and (type(layers) is not int or layers < 1):
        raise _wrong(_flow(given), f"layers is {layers!r}, and must be 1 or more", "bad_value")
    model, quantization = given.get("model"), given.get("quantization")
    if kind is not Guesser.draft and (of_draft := _named(model, quantization, layers)):
        raise _wrong(_flow(given), f"{of_draft[0]} is of a draft model, and kind is {kind}", "conflict")
    if kind in (Guesser.off, Guesser.auto):
        if "tokens" in given:
            raise _wrong(
                _flow(given), f"tokens is for the kinds ngram, draft and mtp, and kind is {kind}", "no_effect"
            )
        return Speculate(kind)
    if kind is Guesser.draft and not _named(model, quantization, layers):
        quantization = DRAFT_QUANTIZATION
    model_text = None if model is None else str(model)
    quantization_text = None if quantization is None else str(quantization)
    return Speculate(kind, tokens, model_text, quantization_text, layers)


def _named(model: object, quantization: object, layers: object) -> list[str]:
    """Return which keys of a draft model are given."""
    given = {"model": model, "quantization": quantization, "layers": layers}
    return [name for name, value in given.items() if value is not None]


def _flow(given: Mapping[Any, Any]) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in given.items()) + "}"


def _wrong(text: str, why: str, code: Code) -> ConfigError:
    mapping = "{kind: draft, model: FILE_OR_FOLDER, quantization: nf4, layers: 10, tokens: 3}"
    need = f"must be one of {', '.join(SHORT_NAMES)}, or {mapping}"
    return ConfigError(f"{why + '; it ' if why else ''}{need}", key=KEY, value=text, code=code)

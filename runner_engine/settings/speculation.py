"""Config of speculative decoding, which defines how draft tokens are proposed.

`generation.speculate` is a short name (off, auto, ngram, draft, mtp) or a mapping ({kind: draft,
layers: 10, tokens: 3}); `str` of the parsed value is the shortest equivalent text, which is part of
the job id.
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


class DrafterKind(StrEnum):
    """Method that proposes draft tokens.

    `auto` and `off` never change how an answer is computed. Other kinds always draft.
    """

    off = "off"  # nobody
    auto = "auto"  # prompt lookup for a few greedy rows, while it saves time
    ngram = "ngram"  # prompt lookup at every step of every row
    draft = "draft"  # a smaller model, at every step of every row
    mtp = "mtp"  # the model's own head for several tokens (MTP), at every step of every row


@dataclass(frozen=True)
class SpeculationConfig:
    """Settings for proposing draft tokens."""

    kind: DrafterKind = DrafterKind.auto
    tokens: int = USUAL_TOKENS  # of a guess at most
    model: str | None = None  # of the draft: a folder, a .gguf file or a hub id; None: the same
    quantization: str | None = None  # of the draft; None: as its files are, or as the model itself
    layers: int | None = None  # only so many first layers of the draft; None: all of them

    auto: ClassVar[SpeculationConfig]
    off: ClassVar[SpeculationConfig]
    ngram: ClassVar[SpeculationConfig]
    draft: ClassVar[SpeculationConfig]
    mtp: ClassVar[SpeculationConfig]

    @classmethod
    def parse(cls, value: object) -> SpeculationConfig:
        """Parse a value of generation.speculate. Raises ConfigError for invalid values."""
        if isinstance(value, SpeculationConfig):
            return value
        if isinstance(value, bool):  # YAML's off
            value = "auto" if value else "off"
        return _parse_mapping(value) if isinstance(value, Mapping) else _parse_text(str(value))

    @property
    def drafts_every_step(self) -> bool:
        """Whether draft tokens are proposed in every decoding step, even if this slows decoding down."""
        return self.kind not in (DrafterKind.off, DrafterKind.auto)

    @property
    def description(self) -> Note:
        """A note for the report that describes the drafter."""
        if self.kind is DrafterKind.mtp:
            return note("own_head_guesses", tokens=self.tokens)
        if self.kind is not DrafterKind.draft:
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
        return _format_mapping(
            {name: value for name, value in given.items() if value not in (None, usual.get(name))}
        )


SpeculationConfig.auto = SpeculationConfig()
SpeculationConfig.off = SpeculationConfig(DrafterKind.off)
SpeculationConfig.ngram = SpeculationConfig(DrafterKind.ngram)
SpeculationConfig.draft = SpeculationConfig(DrafterKind.draft, quantization=DRAFT_QUANTIZATION)
SpeculationConfig.mtp = SpeculationConfig(DrafterKind.mtp)
SHORT_NAMES: dict[str, SpeculationConfig] = {
    name: getattr(SpeculationConfig, name) for name in ("auto", "off", "ngram", "draft", "mtp")
}
INERT = ("auto", "off")  # values that change no answer and no part of how it is made


@lru_cache(maxsize=64)
def _parse_text(text: str) -> SpeculationConfig:
    if text in SHORT_NAMES:
        return SHORT_NAMES[text]
    if text == "none":
        return SpeculationConfig.off
    if text.startswith("{"):
        import yaml

        try:
            read = yaml.safe_load(text)
        except yaml.YAMLError:
            read = None
        if isinstance(read, Mapping):
            return _parse_mapping(read)
    raise _build_invalid_value_error(text, "", "unknown_choice")


def _parse_mapping(mapping: Mapping[Any, Any]) -> SpeculationConfig:
    known = [item.name for item in fields(SpeculationConfig)]
    if unknown := [str(name) for name in mapping if name not in known]:
        raise _build_invalid_value_error(
            _format_mapping(mapping), f"the mapping has no key {unknown[0]}", "unknown_choice"
        )
    kind = mapping.get("kind", DrafterKind.draft)
    if kind in ("none", False):
        kind = DrafterKind.off
    if kind not in [*DrafterKind]:
        raise _build_invalid_value_error(
            _format_mapping(mapping),
            f"kind must be one of {', '.join(DrafterKind)}, but is {kind!r}",
            "unknown_choice",
        )
    kind = DrafterKind(str(kind))
    tokens, layers = mapping.get("tokens", USUAL_TOKENS), mapping.get("layers")
    if type(tokens) is not int or not 1 <= tokens <= MOST_TOKENS:
        raise _build_invalid_value_error(
            _format_mapping(mapping), f"tokens must lie in 1..{MOST_TOKENS}, but is {tokens!r}", "bad_value"
        )
    if layers is not None and (type(layers) is not int or layers < 1):
        raise _build_invalid_value_error(
            _format_mapping(mapping), f"layers must be 1 or more, but is {layers!r}", "bad_value"
        )
    model, quantization = mapping.get("model"), mapping.get("quantization")
    if kind is not DrafterKind.draft and (
        of_draft := _list_given_draft_model_keys(model, quantization, layers)
    ):
        raise _build_invalid_value_error(
            _format_mapping(mapping),
            f"{of_draft[0]} applies only to kind=draft, but kind is {kind}",
            "conflict",
        )
    if kind in (DrafterKind.off, DrafterKind.auto):
        if "tokens" in mapping:
            raise _build_invalid_value_error(
                _format_mapping(mapping),
                f"tokens applies only to the kinds ngram, draft and mtp, but kind is {kind}",
                "no_effect",
            )
        return SpeculationConfig(kind)
    if kind is DrafterKind.draft and not _list_given_draft_model_keys(model, quantization, layers):
        quantization = DRAFT_QUANTIZATION
    model_text = None if model is None else str(model)
    quantization_text = None if quantization is None else str(quantization)
    return SpeculationConfig(kind, tokens, model_text, quantization_text, layers)


def _list_given_draft_model_keys(model: object, quantization: object, layers: object) -> list[str]:
    """Return the names of the set keys that apply only to a draft model."""
    given = {"model": model, "quantization": quantization, "layers": layers}
    return [name for name, value in given.items() if value is not None]


def _format_mapping(mapping: Mapping[Any, Any]) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in mapping.items()) + "}"


def _build_invalid_value_error(text: str, reason: str, code: Code) -> ConfigError:
    mapping = "{kind: draft, model: FILE_OR_FOLDER, quantization: nf4, layers: 10, tokens: 3}"
    need = f"must be one of {', '.join(SHORT_NAMES)}, or {mapping}"
    return ConfigError(f"{reason + '. The value ' if reason else ''}{need}", key=KEY, value=text, code=code)

"""How keys and values are stored: each with a number format of its own, rotated or not, and what is
kept as it is.

`generation.kv_cache` is a short name (int8) or a mapping ({keys: int8, values: int4}); `str` of
what it means is the shortest text that says the same, by which jobs are told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import lru_cache, reduce
from typing import Any, ClassVar

from runner_base import ConfigError
from runner_base.errors import Code
from runner_base.notes import Note, given, note

KEY = "generation.kv_cache"
FIRST_TOKENS = 16  # of a text; attention sinks are among them
SCALES = {"int8": note("scale_of_head"), "int4": note("scale_of_numbers")}


class KvNumbers(StrEnum):
    """The number format of stored keys, or of stored values."""

    as_model = "as_model"
    int8 = "int8"
    int4 = "int4"


@dataclass(frozen=True)
class KvCache:
    """How keys and values are stored."""

    keys: KvNumbers = KvNumbers.as_model
    values: KvNumbers = KvNumbers.as_model
    rotate: bool = False  # the numbers of a head, before they are rounded
    first_tokens: KvNumbers | None = None  # as_model: those of each text are stored in the model's numbers
    layers: tuple[tuple[int, KvNumbers], ...] = ()  # those that are stored otherwise; -1 is the last one

    as_model: ClassVar[KvCache]
    int8: ClassVar[KvCache]
    int8_rotated: ClassVar[KvCache]
    int4: ClassVar[KvCache]
    k8v4: ClassVar[KvCache]

    @classmethod
    def of(cls, value: object) -> KvCache:
        """Return what a value of the key means; ConfigError where it means nothing."""
        if isinstance(value, KvCache):
            return value
        return _of_mapping(value) if isinstance(value, Mapping) else _of_text(str(value))

    @property
    def in_bytes(self) -> bool:
        """Whether some keys or values are not stored as the model's numbers."""
        kinds = {self.keys, self.values, *(numbers for _, numbers in self.layers)}
        return kinds != {KvNumbers.as_model}

    def number_bytes(self, dtype_bytes: int) -> int:
        """Return the bytes of one number of keys and values, scales left out."""
        return dtype_bytes if KvNumbers.as_model in (self.keys, self.values) else 1

    @property
    def fact(self) -> Note:
        """How they are stored, for a job's result."""
        kinds = {self.keys, self.values, *(numbers for _, numbers in self.layers)}
        more = [note("rotated")] * self.rotate
        more += [SCALES[one] for one in KvNumbers if one in kinds and one in SCALES]
        more += [note("first_tokens", count=FIRST_TOKENS)] if self.first_tokens else []
        return reduce(lambda stored, one: note("kv_with", stored=stored, more=one), more, given(str(self)))

    def of_layer(self, layer: int, layers: int) -> tuple[KvNumbers, KvNumbers]:
        """Return the formats of the keys and of the values in one of so many layers."""
        for number, numbers in self.layers:
            if layer in (number, number + layers):
                return numbers, numbers
        return self.keys, self.values

    def check_layers(self, layers: int) -> None:
        """Raise ConfigError for a layer that a model with so many of them does not have."""
        for number, _ in self.layers:
            if not -layers <= number < layers:
                raise ConfigError(
                    f"there is no layer {number}: {layers} layers of this model store keys and values, "
                    f"0 to {layers - 1}, or -1 for the last one",
                    key=KEY,
                    value=self,
                    code="bad_value",
                )

    def __str__(self) -> str:
        name = next((name for name, known in SHORT_NAMES.items() if known == self), None)
        if name is not None:
            return name
        parts = [f"keys: {self.keys}", f"values: {self.values}", f"rotate: {str(self.rotate).lower()}"]
        if self.first_tokens:
            parts.append(f"first_tokens: {self.first_tokens}")
        if self.layers:
            parts.append(
                f"layers: {{{', '.join(f'{number}: {numbers}' for number, numbers in self.layers)}}}"
            )
        return f"{{{', '.join(parts)}}}"


KvCache.as_model = KvCache()
KvCache.int8 = KvCache(KvNumbers.int8, KvNumbers.int8)
KvCache.int8_rotated = KvCache(KvNumbers.int8, KvNumbers.int8, rotate=True)
KvCache.int4 = KvCache(KvNumbers.int4, KvNumbers.int4, rotate=True)
KvCache.k8v4 = KvCache(KvNumbers.int8, KvNumbers.int4, rotate=True)
SHORT_NAMES: dict[str, KvCache] = {
    name: getattr(KvCache, name) for name in ("as_model", "int8", "int8_rotated", "int4", "k8v4")
}


@lru_cache(maxsize=64)
def _of_text(text: str) -> KvCache:
    if text in SHORT_NAMES:
        return SHORT_NAMES[text]
    if text.startswith("{"):
        import yaml

        try:
            read = yaml.safe_load(text)
        except yaml.YAMLError:
            read = None
        if isinstance(read, Mapping):
            return _of_mapping(read)
    raise _wrong(text, "", "unknown_choice")


def _of_mapping(given: Mapping[Any, Any]) -> KvCache:
    """Return what a mapping means; 4 bits are rotated unless it says otherwise."""
    known = {one.name for one in fields(KvCache)}
    if unknown := [str(name) for name in given if name not in known]:
        raise _wrong(_flow(given), f"it has no key {unknown[0]}", "unknown_choice")
    keys, values = (_numbers(given, given.get(side, KvNumbers.as_model)) for side in ("keys", "values"))
    rotate = given.get("rotate", KvNumbers.int4 in (keys, values))
    if not isinstance(rotate, bool):
        raise _wrong(_flow(given), f"rotate is {rotate!r}, and must be true or false", "bad_value")
    chosen = given.get("layers") or {}
    if not isinstance(chosen, Mapping) or not all(type(number) is int for number in chosen):
        raise _wrong(_flow(given), f"layers is {chosen!r}, and must say {{NUMBER: FORMAT, …}}", "bad_value")
    layers = tuple(sorted((number, _numbers(given, numbers)) for number, numbers in chosen.items()))
    first = given.get("first_tokens")
    if first not in (None, KvNumbers.as_model):
        raise _wrong(_flow(given), f"first_tokens is {first!r}, and can only be as_model", "bad_value")
    found = KvCache(keys, values, rotate, KvNumbers.as_model if first else None, layers)
    alone = [name for name in ("rotate", "first_tokens") if getattr(found, name)]
    if alone and not found.in_bytes:
        raise _wrong(
            _flow(given),
            f"{alone[0]} alone changes nothing: give keys or values fewer bits, or leave it out",
            "no_effect",
        )
    return found


def _numbers(given: Mapping[Any, Any], value: object) -> KvNumbers:
    try:
        return KvNumbers(str(value))
    except ValueError:
        raise _wrong(_flow(given), f"{value!r} is none of {', '.join(KvNumbers)}", "unknown_choice") from None


def _flow(given: Mapping[Any, Any]) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in given.items()) + "}"


def _wrong(text: str, why: str, code: Code) -> ConfigError:
    mapping = "{keys: …, values: …, rotate: …, first_tokens: as_model, layers: {0: as_model, …}}"
    need = f"must be one of {', '.join(SHORT_NAMES)}, or {mapping}"
    return ConfigError(f"{why + '; it ' if why else ''}{need}", key=KEY, value=text, code=code)

"""Config of the KV cache: formats of keys and values, rotation, and exceptions for some layers and tokens.

`generation.kv_cache` is a short name (int8) or a mapping ({keys: int8, values: int4}); `str` of the
parsed value is the shortest equivalent text, which is part of the job id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import lru_cache, reduce
from typing import Any, ClassVar

from runner_base import ConfigError
from runner_base.errors import Code
from runner_base.notes import Note, note, text_note

KEY = "generation.kv_cache"
FIRST_TOKENS = 16  # of a text; attention sinks are among them
SCALES = {"int8": note("scale_of_head"), "int4": note("scale_of_numbers")}


class KvPrecision(StrEnum):
    """Number format of keys or values in the KV cache."""

    as_model = "as_model"
    int8 = "int8"
    int4 = "int4"


@dataclass(frozen=True)
class KvCache:
    """The storage format of the KV cache."""

    keys: KvPrecision = KvPrecision.as_model
    values: KvPrecision = KvPrecision.as_model
    rotate: bool = False  # the numbers of a head, before they are rounded
    first_tokens: KvPrecision | None = None  # as_model: those of each text are stored in the model's numbers
    layers: tuple[tuple[int, KvPrecision], ...] = ()  # those that are stored otherwise; -1 is the last one

    as_model: ClassVar[KvCache]
    int8: ClassVar[KvCache]
    int8_rotated: ClassVar[KvCache]
    int4: ClassVar[KvCache]
    k8v4: ClassVar[KvCache]

    @classmethod
    def parse(cls, value: object) -> KvCache:
        """Parse a value of generation.kv_cache. Raises ConfigError for invalid values."""
        if isinstance(value, KvCache):
            return value
        return _parse_mapping(value) if isinstance(value, Mapping) else _parse_text(str(value))

    @property
    def is_quantized(self) -> bool:
        """Whether some keys or values are quantized."""
        kinds = {self.keys, self.values, *(numbers for _, numbers in self.layers)}
        return kinds != {KvPrecision.as_model}

    def get_bytes_per_number(self, dtype_bytes: int) -> int:
        """Return the bytes per element of keys and values, without scales."""
        return dtype_bytes if KvPrecision.as_model in (self.keys, self.values) else 1

    @property
    def description(self) -> Note:
        """A note for the report that describes how keys and values are stored."""
        kinds = {self.keys, self.values, *(numbers for _, numbers in self.layers)}
        more = [note("rotated")] * self.rotate
        more += [SCALES[one] for one in KvPrecision if one in kinds and one in SCALES]
        more += [note("first_tokens", count=FIRST_TOKENS)] if self.first_tokens else []
        return reduce(
            lambda stored, one: note("kv_with", stored=stored, more=one), more, text_note(str(self))
        )

    def get_layer_precisions(self, layer: int, num_layers: int) -> tuple[KvPrecision, KvPrecision]:
        for number, numbers in self.layers:
            if layer in (number, number + num_layers):
                return numbers, numbers
        return self.keys, self.values

    def check_layers(self, num_layers: int) -> None:
        """Raise ConfigError if `layers` names a layer that does not exist in the model."""
        for number, _ in self.layers:
            if not -num_layers <= number < num_layers:
                raise ConfigError(
                    f"layer {number} does not exist: {num_layers} layers of this model store keys and "
                    f"values. Use 0 to {num_layers - 1}, or -1 for the last layer",
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
KvCache.int8 = KvCache(KvPrecision.int8, KvPrecision.int8)
KvCache.int8_rotated = KvCache(KvPrecision.int8, KvPrecision.int8, rotate=True)
KvCache.int4 = KvCache(KvPrecision.int4, KvPrecision.int4, rotate=True)
KvCache.k8v4 = KvCache(KvPrecision.int8, KvPrecision.int4, rotate=True)
SHORT_NAMES: dict[str, KvCache] = {
    name: getattr(KvCache, name) for name in ("as_model", "int8", "int8_rotated", "int4", "k8v4")
}


@lru_cache(maxsize=64)
def _parse_text(text: str) -> KvCache:
    if text in SHORT_NAMES:
        return SHORT_NAMES[text]
    if text.startswith("{"):
        import yaml

        try:
            read = yaml.safe_load(text)
        except yaml.YAMLError:
            read = None
        if isinstance(read, Mapping):
            return _parse_mapping(read)
    raise _build_invalid_value_error(text, "", "unknown_choice")


def _parse_mapping(mapping: Mapping[Any, Any]) -> KvCache:
    """Parse a mapping with the formats of keys and values. 4-bit formats are rotated by default."""
    known = {one.name for one in fields(KvCache)}
    if unknown := [str(name) for name in mapping if name not in known]:
        raise _build_invalid_value_error(
            _format_mapping(mapping), f"the mapping has no key {unknown[0]}", "unknown_choice"
        )
    keys, values = (
        _parse_precision(mapping, mapping.get(side, KvPrecision.as_model)) for side in ("keys", "values")
    )
    rotate = mapping.get("rotate", KvPrecision.int4 in (keys, values))
    if not isinstance(rotate, bool):
        raise _build_invalid_value_error(
            _format_mapping(mapping), f"rotate must be true or false, but is {rotate!r}", "bad_value"
        )
    chosen = mapping.get("layers") or {}
    if not isinstance(chosen, Mapping) or not all(type(number) is int for number in chosen):
        raise _build_invalid_value_error(
            _format_mapping(mapping),
            f"layers must have the form {{NUMBER: FORMAT, …}}, but is {chosen!r}",
            "bad_value",
        )
    layers = tuple(sorted((number, _parse_precision(mapping, numbers)) for number, numbers in chosen.items()))
    first = mapping.get("first_tokens")
    if first not in (None, KvPrecision.as_model):
        raise _build_invalid_value_error(
            _format_mapping(mapping), f"first_tokens must be as_model, but is {first!r}", "bad_value"
        )
    found = KvCache(keys, values, rotate, KvPrecision.as_model if first else None, layers)
    alone = [name for name in ("rotate", "first_tokens") if getattr(found, name)]
    if alone and not found.is_quantized:
        raise _build_invalid_value_error(
            _format_mapping(mapping),
            f"{alone[0]} has no effect if keys and values are not quantized",
            "no_effect",
        )
    return found


def _parse_precision(mapping: Mapping[Any, Any], number_format: object) -> KvPrecision:
    try:
        return KvPrecision(str(number_format))
    except ValueError:
        raise _build_invalid_value_error(
            _format_mapping(mapping),
            f"{number_format!r} is none of {', '.join(KvPrecision)}",
            "unknown_choice",
        ) from None


def _format_mapping(mapping: Mapping[Any, Any]) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in mapping.items()) + "}"


def _build_invalid_value_error(text: str, reason: str, code: Code) -> ConfigError:
    mapping = "{keys: …, values: …, rotate: …, first_tokens: as_model, layers: {0: as_model, …}}"
    need = f"must be one of {', '.join(SHORT_NAMES)}, or {mapping}"
    return ConfigError(f"{reason + '. The value ' if reason else ''}{need}", key=KEY, value=text, code=code)

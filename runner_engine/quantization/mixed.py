"""Which choice each linear layer gets: `quantization.skip` and `quantization.overrides`.

A pattern is the name of a module, whole or its last parts, and stands for all linear layers in it.
No torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from runner_base import ConfigError, few, unknown
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import GENERAL_KEYS, MIX_KEYS, CheckpointSource, QuantizationConfig
from runner_engine.quantization.capabilities import quantizes_layers

NONE = QuantizationConfig()
HEAD = "lm_head"  # what a head is called that is tied to the embedding, and so has no tensor of its own
EXAMPLES = 8
# of a pattern, its choice, and the name with its keys
Make = Callable[[str, type[QuantizationConfig], dict[str, Any]], QuantizationConfig]


@dataclass(frozen=True)
class Mix:
    """The choice for each linear layer, by its path: of several overrides that match, the one with
    the most letters."""

    base: QuantizationConfig
    overrides: Mapping[str, QuantizationConfig]
    _patterns: dict[str, re.Pattern[str]] = field(default_factory=dict, compare=False)

    @staticmethod
    def of(wanted: QuantizationConfig, make: Make | None = None) -> Mix:
        """Read patterns and overrides; ConfigError for those that cannot be, before any file is
        read.

        `make` makes an override with keys; None: the keys have the types of the choice already.
        """
        if not wanted.is_mixed:
            return Mix(wanted, {})
        given = " and ".join(f"quantization.{key}" for key in MIX_KEYS if getattr(wanted, key))
        if wanted.source is not CheckpointSource.plain:
            raise ConfigError(
                f"quantization={wanted.name} loads what is stored, and what is stored is stored: leave it "
                "out, or quantize the original checkpoint",
                key=given,
                code="conflict",
            )
        if not all(str(pattern).strip() for pattern in [*wanted.skip, *wanted.overrides]):
            raise ConfigError(
                "an empty pattern: give a part of a layer's path, such as down_proj, or *",
                key=given,
                code="bad_value",
            )
        overrides = {
            str(pattern): _choice(f"{pattern}", value, make or _of_keys)
            for pattern, value in wanted.overrides.items()
        }
        for choice in (wanted, *overrides.values()):
            if choice.packed and not quantizes_layers(type(choice)):
                raise ConfigError(
                    f"quantization={choice.name} quantizes whole models only, not single layers",
                    key=given,
                    code="unsupported",
                )
        mix = Mix(wanted, overrides, {pattern: _compiled(pattern) for pattern in [*wanted.skip, *overrides]})
        if wanted.skip and not mix.quantizes:
            raise ConfigError(
                "quantization.skip with quantization=none: nothing is quantized that could be skipped",
                code="no_effect",
            )
        return mix

    @property
    def choices(self) -> tuple[QuantizationConfig, ...]:
        """The choices that quantize layers in memory, or the base if none does."""
        packed = [choice for choice in (self.base, *self.overrides.values()) if choice.packed]
        return tuple(packed) or (self.base,)

    @property
    def quantizes(self) -> bool:
        """Whether any layer may be quantized in memory."""
        return self.choices[0].packed

    def has_kernels(self, dtype_bytes: int) -> bool:
        """Whether the local engine has its own kernels for all of them."""
        return all(choice.products(dtype_bytes).has_kernels for choice in self.choices)

    def choice_for(self, path: str, is_head: bool = False) -> QuantizationConfig:
        """Return what a layer gets; a head is left alone unless an override names it."""
        if any(self.matches(pattern, path) for pattern in self.base.skip):
            return NONE
        matching = [pattern for pattern in self.overrides if self.matches(pattern, path)]
        if not matching:
            return NONE if is_head else self.base
        most = max(map(_letters, matching))
        best = [pattern for pattern in matching if _letters(pattern) == most]
        if any(self.overrides[pattern] != self.overrides[best[0]] for pattern in best):
            raise ConfigError(
                f"{' and '.join(best)} say different things about {path}, and none of them is "
                "longer, i.e. more specific: give one of them more of the path",
                key="quantization.overrides",
                code="ambiguous",
            )
        return self.overrides[best[0]]

    def check_layers(self, paths: Iterable[str], heads: Iterable[str], tied: bool) -> None:
        """Reject patterns that match no linear layer, and a choice for a head that is tied to the
        embedding."""
        layers, heads = list(paths), list(heads)
        for pattern in self.base.skip:
            if not any(self.matches(pattern, path) for path in [*layers, *heads]):
                raise ConfigError(
                    self._no_layer(pattern, [*layers, *heads]), key="quantization.skip", code="not_found"
                )
        for pattern, choice in self.overrides.items():
            if any(self.matches(pattern, path) for path in layers):
                continue
            if not any(self.matches(pattern, path) for path in heads):
                raise ConfigError(
                    self._no_layer(pattern, [*layers, *heads]), key="quantization.overrides", code="not_found"
                )
            if tied and choice.packed:
                raise ConfigError(
                    f"{pattern} is tied to the embedding in this model, which is not a linear "
                    "layer and stays in model.dtype: leave it out",
                    key="quantization.overrides",
                    code="unsupported",
                )
        for path in layers:
            self.choice_for(path)
        for path in heads:
            self.choice_for(path, is_head=True)

    def matches(self, pattern: str, path: str) -> bool:
        """Whether a layer's path ends as a pattern says, or is below a module of this name."""
        return self._patterns[pattern].fullmatch(path) is not None

    def only_matching(self, paths: Iterable[str]) -> QuantizationConfig:
        """Return the base with those of its patterns that match a path, for a model with fewer
        layers."""
        known, base = list(paths), self.base

        def is_kept(pattern: str) -> bool:
            return any(self.matches(pattern, path) for path in known)

        overrides = {pattern: value for pattern, value in base.overrides.items() if is_kept(pattern)}
        return replace(base, skip=[*filter(is_kept, base.skip)], overrides=overrides)

    @staticmethod
    def _no_layer(pattern: str, paths: list[str]) -> str:
        kinds = dict.fromkeys(re.sub(r"\.\d+\.", ".0.", path) for path in paths)
        return (
            f"{pattern} matches no linear layer of this model; there are {few([*kinds], EXAMPLES)}. A pattern "
            "is the end of such a path, or a module on it; * stands for any letters"
        )


def _choice(pattern: str, value: Any, make: Make) -> QuantizationConfig:
    """Return the choice that an override names, with its keys."""
    key = f"quantization.overrides.{pattern}"
    keys = dict(value) if isinstance(value, dict) else {"name": value}
    name = keys.pop("name", None)
    if name is None:
        raise ConfigError(
            "give a choice, such as int8, or {name: nf4, double_quant: false}",
            key=key,
            value=value,
            code="missing",
        )
    kind = CHOICES[name] if name in CHOICES.names() else None
    if kind is None or kind.source is not CheckpointSource.plain:
        every = ((name, CHOICES.get(name)) for name in CHOICES.names())
        usable = [one for one, kind in every if kind is not None and kind.source is CheckpointSource.plain]
        raise ConfigError(
            unknown("choice for single layers", str(name), usable), key=key, value=name, code="unknown_choice"
        )
    own = [item.name for item in fields(kind) if item.name not in GENERAL_KEYS]
    if strange := [str(key) for key in keys if key not in own]:
        raise ConfigError(
            f"{name} has no key {few(strange)}; it has {', '.join(own) or 'none'}",
            key=key,
            code="unknown_choice",
        )
    return make(pattern, kind, dict(value)) if keys else kind()


def _of_keys(_: str, kind: type[QuantizationConfig], given: dict[str, Any]) -> QuantizationConfig:
    return kind(**{key: value for key, value in given.items() if key != "name"})


def _compiled(pattern: str) -> re.Pattern[str]:
    """Return what matches a module's path, from any dot on, and every path below it."""
    inner = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(rf"(.*\.)?{inner}(\..*)?", re.DOTALL)


def _letters(pattern: str) -> int:
    """Return how specific a pattern is: its characters that stand for themselves."""
    return len(re.sub(r"[*?]", "", pattern))

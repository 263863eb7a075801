"""Selects the quantization config of each linear layer by `quantization.skip` and `quantization.overrides`.

A pattern is the name of a module, whole or its last parts, and selects all linear layers in it.
No torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from runner_base import ConfigError, format_unknown_choice_message, join_first_names
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import GENERAL_KEYS, MIX_KEYS, CheckpointSource, QuantizationConfig
from runner_engine.quantization.capabilities import can_quantize_layers

NONE = QuantizationConfig()
HEAD = "lm_head"  # what a head is called that is tied to the embedding, and so has no tensor of its own
EXAMPLES = 8
# of a pattern, its choice, and the name with its keys
OverrideBuilder = Callable[[str, type[QuantizationConfig], dict[str, Any]], QuantizationConfig]


@dataclass(frozen=True)
class QuantizationMix:
    """Selects a quantization config for each linear layer by its path. The longest matching override wins."""

    base: QuantizationConfig
    overrides: Mapping[str, QuantizationConfig]
    _patterns: dict[str, re.Pattern[str]] = field(default_factory=dict, compare=False)

    @staticmethod
    def from_config(
        config: QuantizationConfig, build_override: OverrideBuilder | None = None
    ) -> QuantizationMix:
        """Parse the patterns in `skip` and `overrides`. Raises ConfigError for invalid patterns, before
        any file is read.

        `build_override` builds an override with keys; None: the keys have the choice's types already.
        """
        if not config.is_mixed:
            return QuantizationMix(config, {})
        given = " and ".join(f"quantization.{key}" for key in MIX_KEYS if getattr(config, key))
        if config.source is not CheckpointSource.plain:
            raise ConfigError(
                f"quantization={config.name} loads weights that are already quantized. Omit the patterns, "
                "or quantize the original checkpoint",
                key=given,
                code="conflict",
            )
        if not all(str(pattern).strip() for pattern in [*config.skip, *config.overrides]):
            raise ConfigError(
                "a pattern is empty. Use a part of a layer's path, such as down_proj, or *",
                key=given,
                code="bad_value",
            )
        overrides = {
            str(pattern): _parse_override(f"{pattern}", value, build_override or _build_from_keys)
            for pattern, value in config.overrides.items()
        }
        for choice in (config, *overrides.values()):
            if choice.packed and not can_quantize_layers(type(choice)):
                raise ConfigError(
                    f"quantization={choice.name} quantizes whole models only, not single layers",
                    key=given,
                    code="unsupported",
                )
        mix = QuantizationMix(
            config, overrides, {pattern: _compile_pattern(pattern) for pattern in [*config.skip, *overrides]}
        )
        if config.skip and not mix.quantizes:
            raise ConfigError(
                "quantization.skip has no effect with quantization=none, which quantizes no layer",
                code="no_effect",
            )
        return mix

    @property
    def quantizing_configs(self) -> tuple[QuantizationConfig, ...]:
        """The configs that quantize layers in memory, or only the base config if none of them does."""
        packed = [choice for choice in (self.base, *self.overrides.values()) if choice.packed]
        return tuple(packed) or (self.base,)

    @property
    def quantizes(self) -> bool:
        """Whether any layer may be quantized in memory."""
        return self.quantizing_configs[0].packed

    def has_kernels(self, dtype_bytes: int) -> bool:
        """Whether the runner's own kernels can multiply all layers on the local engine."""
        return all(
            choice.describe_matmul_costs(dtype_bytes).has_kernels for choice in self.quantizing_configs
        )

    def select_layer_config(self, layer_path: str, is_head: bool = False) -> QuantizationConfig:
        """Return the quantization config of a layer. lm_head stays unquantized unless an override
        matches its path.
        """
        if any(self.matches(pattern, layer_path) for pattern in self.base.skip):
            return NONE
        matching = [pattern for pattern in self.overrides if self.matches(pattern, layer_path)]
        if not matching:
            return NONE if is_head else self.base
        most = max(map(_count_literal_characters, matching))
        best = [pattern for pattern in matching if _count_literal_characters(pattern) == most]
        if any(self.overrides[pattern] != self.overrides[best[0]] for pattern in best):
            raise ConfigError(
                f"the patterns {' and '.join(best)} select different quantizations for {layer_path}, but have "
                "equal length. Make one pattern longer, so that it takes precedence",
                key="quantization.overrides",
                code="ambiguous",
            )
        return self.overrides[best[0]]

    def check_quantization_patterns_match_layers(
        self, layer_paths: Iterable[str], head_paths: Iterable[str], is_head_tied: bool
    ) -> None:
        layers, head_paths = list(layer_paths), list(head_paths)
        for pattern in self.base.skip:
            if not any(self.matches(pattern, path) for path in [*layers, *head_paths]):
                raise ConfigError(
                    self._format_no_match(pattern, [*layers, *head_paths]),
                    key="quantization.skip",
                    code="not_found",
                )
        for pattern, choice in self.overrides.items():
            if any(self.matches(pattern, path) for path in layers):
                continue
            if not any(self.matches(pattern, path) for path in head_paths):
                raise ConfigError(
                    self._format_no_match(pattern, [*layers, *head_paths]),
                    key="quantization.overrides",
                    code="not_found",
                )
            if is_head_tied and choice.packed:
                raise ConfigError(
                    f"{pattern} is tied to the embedding in this model. The embedding cannot be quantized "
                    "and stays in model.dtype. Omit this pattern",
                    key="quantization.overrides",
                    code="unsupported",
                )
        for path in layers:
            self.select_layer_config(path)
        for path in head_paths:
            self.select_layer_config(path, is_head=True)

    def matches(self, pattern: str, layer_path: str) -> bool:
        """Whether a pattern matches a layer's path, or the path of a module that contains the layer."""
        return self._patterns[pattern].fullmatch(layer_path) is not None

    def remove_unmatched_patterns(self, layer_paths: Iterable[str]) -> QuantizationConfig:
        known, base = list(layer_paths), self.base

        def matches_any(pattern: str) -> bool:
            return any(self.matches(pattern, path) for path in known)

        overrides = {pattern: value for pattern, value in base.overrides.items() if matches_any(pattern)}
        return replace(base, skip=[*filter(matches_any, base.skip)], overrides=overrides)

    @staticmethod
    def _format_no_match(pattern: str, paths: list[str]) -> str:
        kinds = dict.fromkeys(re.sub(r"\.\d+\.", ".0.", path) for path in paths)
        return (
            f"{pattern} matches no linear layer of this model. Its layers are "
            f"{join_first_names([*kinds], EXAMPLES)}. A pattern "
            "is the end of a path, or a module in a path. The wildcard * matches any characters"
        )


def _parse_override(pattern: str, override: Any, build_override: OverrideBuilder) -> QuantizationConfig:
    """Parse the value of an override: a choice's name, or a dictionary with a name and config keys."""
    key = f"quantization.overrides.{pattern}"
    keys = dict(override) if isinstance(override, dict) else {"name": override}
    name = keys.pop("name", None)
    if name is None:
        raise ConfigError(
            "must be a choice such as int8, or {name: nf4, double_quant: false}",
            key=key,
            value=override,
            code="missing",
        )
    kind = CHOICES[name] if name in CHOICES.list_names() else None
    if kind is None or kind.source is not CheckpointSource.plain:
        every = ((name, CHOICES.get(name)) for name in CHOICES.list_names())
        usable = [one for one, kind in every if kind is not None and kind.source is CheckpointSource.plain]
        raise ConfigError(
            format_unknown_choice_message("choice for single layers", str(name), usable),
            key=key,
            value=name,
            code="unknown_choice",
        )
    own = [item.name for item in fields(kind) if item.name not in GENERAL_KEYS]
    if strange := [str(key) for key in keys if key not in own]:
        raise ConfigError(
            f"{name} has no key {join_first_names(strange)}. The keys of {name} are {', '.join(own) or 'none'}",
            key=key,
            code="unknown_choice",
        )
    return build_override(pattern, kind, dict(override)) if keys else kind()


def _build_from_keys(
    _: str, config_class: type[QuantizationConfig], keys: dict[str, Any]
) -> QuantizationConfig:
    return config_class(**{key: value for key, value in keys.items() if key != "name"})


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a pattern that matches the end of a module path. It also matches all modules below
    that path.
    """
    inner = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(rf"(.*\.)?{inner}(\..*)?", re.DOTALL)


def _count_literal_characters(pattern: str) -> int:
    """Return a pattern's number of literal characters."""
    return len(re.sub(r"[*?]", "", pattern))

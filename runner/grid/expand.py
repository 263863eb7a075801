"""Expands a grid into jobs, each a list of Hydra overrides, and applies the exclude rules.

`params` and the command line multiply, as in Hydra's basic sweeper. The keys of one zip advance
together. Each case is a small grid of its own. Hydra's own parser reads the overrides, so
values have the same meaning as everywhere in Hydra.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import chain, product
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, RangeSweep
from hydra.errors import HydraException

from runner.config.override_quoting import flatten_sweep_params, format_sweep_override, parse_override_value
from runner_base import ConfigError, format_unknown_choice_message

MAX_JOBS = 1_000_000  # a larger grid is a typing error, and listing it would fill the memory
PARAMS = "hydra.sweeper.params"
ZIP = "hydra.sweeper.zip"
CASES = "hydra.sweeper.cases"
EXCLUDE = "hydra.sweeper.exclude"

# a job's value for a key as text (null as "null"); None: it has no such key
ValueGetter = Callable[[str], str | None]


def expand_grid(
    arguments: Sequence[str],
    params: Mapping[str, Any] | None,
    zips: Sequence[Mapping[str, Any]] | None,
    config_loader: ConfigLoader | None,
    cases: Sequence[Mapping[str, Any]] | None = None,
) -> list[list[str]]:
    """Return the overrides of every job. The jobs are the Cartesian product of all sweeps.

    The keys of the command line vary fastest.
    """
    parser = OverridesParser.create(config_loader=config_loader)
    given = {override.get_key_element(): override for override in parser.parse_overrides(list(arguments))}
    from_params: dict[str, Override] = {}
    for key, value in flatten_sweep_params(params or {}):
        override = _parse_override(parser, PARAMS, key, value)
        from_params[override.get_key_element()] = override
    zipped: dict[str, list[Override]] = {}
    for number, together in enumerate(zips or ()):
        where = f"{ZIP}[{number}]"
        zipped[where] = [
            _parse_override(parser, where, key, value) for key, value in flatten_sweep_params(together)
        ]
    of_cases = [
        [
            _parse_override(parser, f"{CASES}[{number}]", key, value)
            for key, value in flatten_sweep_params(case)
        ]
        for number, case in enumerate(cases or ())
    ]
    by_name = {_key_without_prefix(override): override for case in of_cases for override in case}
    _reject_conflicting_zip_keys(
        given, from_params, zipped | ({CASES: list(by_name.values())} if by_name else {})
    )

    # the command line replaces an entry of params in its place; keys that only the command line has
    # come last
    axes = [_build_grid_axis("", [given.pop(key, override)]) for key, override in from_params.items()]
    axes += [_build_grid_axis(where, overrides) for where, overrides in zipped.items() if overrides]
    axes += [_expand_cases_into_overrides(of_cases)] if of_cases else []
    axes += [_build_grid_axis("", [override]) for override in given.values()]
    if math.prod(map(len, axes)) > MAX_JOBS:
        sizes = " x ".join(f"{len(axis)} ({_axis_keys(axis)})" for axis in axes if len(axis) > 1)
        raise ConfigError(
            f"this grid has more than {MAX_JOBS:,} jobs: {sizes}. Give fewer values", code="too_large"
        )
    return [list(chain.from_iterable(job)) for job in product(*axes)]


def is_excluded_by_rules(exclude: Sequence[Mapping[str, str]], get_value: ValueGetter) -> bool:
    """Return whether a job matches every key of at least one exclude rule.

    A rule may list several values for a key.
    """
    return any(
        rule and all(_matches_exclude_rule(key, rule[key], get_value(key)) for key in rule)
        for rule in exclude
    )


def check_exclude_keys(
    exclude: Sequence[Mapping[str, str]], value_getters: Iterable[ValueGetter], known_keys: Iterable[str]
) -> None:
    """Raise ConfigError if an exclude rule has a key that no job has. The message suggests the nearest
    known key.
    """
    lookups = list(value_getters)
    for number, rule in enumerate(exclude):
        for key, wanted in rule.items():
            # reports a value that cannot be read before the first job starts
            _parse_exclude_values(key, wanted)
            if lookups and all(values(key) is None for values in lookups):
                raise ConfigError(
                    format_unknown_choice_message("group or key", key, known_keys),
                    key=f"{EXCLUDE}[{number}].{key}",
                    code="unknown_choice",
                )


# ---------------------------------------------------------------------------------------- expanding


def _parse_override(parser: OverridesParser, config_key: str, key: str, value: Any) -> Override:
    try:
        return parser.parse_overrides([format_sweep_override(key, value)])[0]
    except HydraException as error:
        why = " ".join(line.strip() for line in str(error).splitlines() if not line.startswith("See "))
        raise ConfigError(
            f"{key}={value} cannot be parsed ({why}). Put text with special characters in quotes",
            key=config_key,
            code="bad_value",
        ) from error


def _key_without_prefix(override: Override) -> str:
    """Return the key of an override without + or ~."""
    return override.get_key_element().lstrip("+~")


def _reject_conflicting_zip_keys(
    command_line: Mapping[str, Override],
    param_overrides: Mapping[str, Override],
    zip_overrides: Mapping[str, list[Override]],
) -> None:
    seen: dict[str, str] = {}
    for where_given, overrides in zip_overrides.items():
        for name in map(_key_without_prefix, overrides):
            if name in seen:
                where = (
                    f"twice in {where_given}"
                    if seen[name] == where_given
                    else f"in {seen[name]} and in {where_given}"
                )
                raise ConfigError(f"{name} is set {where}. Remove one of the two settings", code="conflict")
            seen[name] = where_given
    for override in command_line.values():
        name = _key_without_prefix(override)
        if (place_of_zip := seen.get(name)) is not None:
            others = [
                other for other in map(_key_without_prefix, zip_overrides[place_of_zip]) if other != name
            ]
            together = f", together with {', '.join(others)}" if others else ""
            raise ConfigError(
                (
                    f"{override.input_line} is set on the command line, but {name} is also set in "
                    f"{place_of_zip}{together}. Remove one of the two settings"
                ),
                code="conflict",
            )
    for name in map(_key_without_prefix, param_overrides.values()):
        if name in seen:
            raise ConfigError(
                f"{name} is set in {PARAMS} and in {seen[name]}. Remove one of the two settings",
                code="conflict",
            )


def _build_grid_axis(config_key: str, overrides: list[Override]) -> list[tuple[str, ...]]:
    columns = [_expand_override(override) for override in overrides]
    if len({len(column) for column in columns}) > 1:
        lengths = ", ".join(
            f"{_key_without_prefix(override)} has {len(column)}"
            for override, column in zip(overrides, columns, strict=True)
        )
        raise ConfigError(
            f"keys that are zipped together need equally many values: {lengths}",
            key=config_key,
            code="mismatch",
        )
    return list(zip(*columns, strict=True))


def _expand_cases_into_overrides(cases: Sequence[Sequence[Override]]) -> list[tuple[str, ...]]:
    grids = [[_expand_override(override) for override in case] for case in cases]
    if sum(math.prod(map(len, grid)) for grid in grids) > MAX_JOBS:
        raise ConfigError(f"more than {MAX_JOBS:,} jobs. Give fewer values", key=CASES, code="too_large")
    return [job for grid in grids for job in product(*grid)]


def _expand_override(override: Override) -> list[str]:
    """Return `key=value` for each value of a sweep override, formatted like Hydra's basic sweeper does."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    _reject_unbounded_sweep(override)
    lines = [f"{key}={value}" for value in override.sweep_string_iterator()]
    if not lines:
        raise _create_empty_sweep_error(override)
    return lines


def _reject_unbounded_sweep(override: Override) -> None:
    value: Any = override.value()
    if override.is_interval_sweep():
        raise ConfigError(
            (
                "a grid cannot sweep over a continuous interval. Use "
                f"{override.key_or_group}=range(start,stop,step), or hydra/sweeper=optuna"
            ),
            key=override.input_line,
            code="unsupported",
        )
    if isinstance(value, RangeSweep):
        numbers = (value.start, value.stop, value.step)
        if not all(number is not None and math.isfinite(number) for number in numbers):
            raise ConfigError(
                "start, stop and step of a range must be finite numbers",
                key=override.input_line,
                code="bad_value",
            )
        start, stop, step = (Decimal(number or 0) for number in numbers)
        if step == 0:
            raise ConfigError("the step of a range must not be 0", key=override.input_line, code="bad_value")
        if (stop - start) / step > MAX_JOBS:
            raise ConfigError(
                f"this range has more than {MAX_JOBS:,} values", key=override.input_line, code="too_large"
            )


def _create_empty_sweep_error(override: Override) -> ConfigError:
    line, group = override.input_line, override.key_or_group
    if not isinstance(override.value(), Glob):
        return ConfigError(
            "this range has no values. A range includes start and excludes stop", key=line, code="empty"
        )
    assert override.config_loader is not None  # without it the glob could not be expanded
    choices = override.config_loader.get_group_options(group)
    if not choices:
        return ConfigError(
            f"glob(...) needs a config group, and {group} is not a config group. Use choice(...)",
            key=line,
            code="empty",
        )
    return ConfigError(
        f"the pattern matches no choice for {group}. Choices: {', '.join(choices)}", key=line, code="empty"
    )


def _axis_keys(axis: list[tuple[str, ...]]) -> str:
    return ", ".join(line.partition("=")[0] for line in axis[0])


# ---------------------------------------------------------------------------------------- excluding


def _matches_exclude_rule(key: str, pattern: str, value: str | None) -> bool:
    if value is None:
        return False
    wanted_values = _parse_exclude_values(key, pattern)
    if isinstance(wanted_values, Glob):
        return bool(wanted_values.filter([value]))
    return _get_type_and_normalized_value(value) in wanted_values or ("str", value) in wanted_values


@lru_cache(maxsize=4096)
def _parse_exclude_values(key: str, rule_values: str) -> Glob | frozenset[tuple[str, str]]:
    override = _parse_override(OverridesParser.create(), EXCLUDE, key, rule_values)
    value: Any = override.value()
    if isinstance(value, Glob):
        return value
    return frozenset(
        _get_type_and_normalized_value(line.partition("=")[2]) for line in _expand_override(override)
    )


@lru_cache(maxsize=4096)
def _get_type_and_normalized_value(text: str) -> tuple[str, str]:
    """Return a value's type and normalized text, so that different spellings of a value compare equal.

    1e-1 equals 0.1, and True equals true, but 1 differs from true.
    """
    override = parse_override_value(text)
    if override is None or override.is_sweep_override():  # None: free text that is not a valid override
        return "str", text
    value: Any = override.value()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number", str(int(value) if value == value // 1 else value)  # 4.0 is 4
    return type(value).__name__, str(value)

"""Checks the module-name patterns and the ranks in an adapter's config before PEFT uses them.

PEFT limits neither time nor memory. A regular expression with nested repeats may take years on a
module's name. It is tried in a process that can be killed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runner_base import ConfigError, to_one_line
from runner_base.known_secrets import untrusted_child_environment

LONGEST_S = 5.0  # for all patterns of an adapter; on an idle machine they take milliseconds
LARGEST_RANK = 1024  # that is allowed beyond the ranks of the adapter's own matrices
MOST_NAMES = 100_000  # each is compared with each module; models with many experts have 25,000
MOST_ITERATIONS = 100  # that PEFT decomposes each layer in; PiSSA's authors use 4 to 16
REPEATS = ("MAX_REPEAT", "MIN_REPEAT")
TRY = (
    "import json, re, sys\npatterns, names = json.load(sys.stdin)\n"
    "for pattern in patterns:\n    for name in names: re.match(pattern, name)\n"
)


def check_adapter_ranks(adapter_config: Mapping[str, Any], ranks: Iterable[int], label: str) -> None:
    """Raise ConfigError if a rank in an adapter's config is too large or not a positive integer.

    Ranks up to the largest rank of the stored matrices are allowed.
    """
    most = max([LARGEST_RANK, *ranks])
    by_pattern = adapter_config.get("rank_pattern")
    found = {"r": adapter_config.get("r", 1)}
    found |= by_pattern if isinstance(by_pattern, dict) else {}
    for key, rank in found.items():
        if not isinstance(rank, int) or not 1 <= rank <= most:
            raise ConfigError(
                f"adapter_config.json has the invalid rank {to_one_line(rank, 40)} for "
                f"{to_one_line(key, 40)}. Expected a whole number from 1 to {most:,}",
                key=label,
                code="damaged",
            )


def check_adapter_patterns(adapter_config: Mapping[str, Any], module_names: list[str], label: str) -> None:
    """Raise ConfigError if an adapter's config has too many patterns, or a pattern that is too slow
    to match.
    """
    for key, value in adapter_config.items():
        if isinstance(value, list | dict) and len(value) > MOST_NAMES:
            raise ConfigError(
                f"{to_one_line(key, 40)} in adapter_config.json has {len(value):,} entries. "
                f"At most {MOST_NAMES:,} are allowed",
                key=label,
                code="too_large",
            )
    start = re.fullmatch(r"pissa_niter_(\d+)", str(adapter_config.get("init_lora_weights"))[:40])
    if start is not None and int(start[1]) > MOST_ITERATIONS:
        raise ConfigError(
            f"init_lora_weights={start[0]} in adapter_config.json has too many iterations. "
            f"At most {MOST_ITERATIONS} are allowed",
            key=label,
            code="too_large",
        )
    patterns = [
        pattern
        for pattern in _iter_adapter_module_patterns(adapter_config)
        if _has_catastrophic_backtracking(pattern)
    ]
    if not patterns:
        return
    tried = [f"(?:.*\\.)?(?:{pattern})$" for pattern in patterns] + patterns
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", TRY],
            input=json.dumps([tried, module_names]),
            text=True,
            check=False,
            timeout=LONGEST_S,
            env=untrusted_child_environment(),
            stderr=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"matching module names with this pattern of adapter_config.json takes too long: "
            f"{to_one_line(patterns[0], 80)}. List the module names instead",
            key=label,
            code="refused",
        ) from None


def _iter_adapter_module_patterns(adapter_config: Mapping[str, Any]) -> Iterator[str]:
    for key in ("target_modules", "exclude_modules", "target_parameters", "modules_to_save"):
        if isinstance(value := adapter_config.get(key), str):
            yield value
    for key in ("rank_pattern", "alpha_pattern"):
        if isinstance(value := adapter_config.get(key), dict):
            yield from value
    of_layers = adapter_config.get("layers_pattern")
    for value in of_layers if isinstance(of_layers, list) else [of_layers]:
        if isinstance(value, str):
            yield value


def _has_catastrophic_backtracking(pattern: str) -> bool:
    """Whether a regular expression has nested repeats, which can take exponential time to match."""
    try:
        return _has_nested_regex_repeat(re._parser.parse(pattern), False)  # type: ignore[attr-defined]
    except (re.error, OverflowError, RecursionError):
        return False


def _has_nested_regex_repeat(node: Any, is_repeated: bool) -> bool:
    if type(node).__name__ == "SubPattern":
        return any(_has_nested_regex_repeat(item, is_repeated) for item in node)
    if not isinstance(node, tuple | list):
        return False
    is_repeat = len(node) == 2 and str(node[0]) in REPEATS
    if is_repeat and is_repeated:
        return True
    return any(_has_nested_regex_repeat(item, is_repeated or is_repeat) for item in node)

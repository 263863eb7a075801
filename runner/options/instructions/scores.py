"""Accuracies over prompts and over instructions, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from runner.options.instructions.judging import FollowedInstructions
from runner_compare.statistics import accuracy_interval


@dataclass(frozen=True)
class CheckedPrompt:
    """The kinds of a prompt's instructions, and which of them the answer follows."""

    kinds: tuple[str, ...]
    followed: FollowedInstructions
    cluster: str | None


def compute_instruction_metrics(prompts: Sequence[CheckedPrompt]) -> dict[str, float]:
    """Return the accuracies besides the strict accuracy over prompts. Instructions of a prompt are one cluster."""
    clusters = [prompt.cluster for prompt in prompts]
    by_instruction = [
        prompt.cluster or str(number) for number, prompt in enumerate(prompts) for _ in prompt.kinds
    ]
    strict = [is_followed for prompt in prompts for is_followed in prompt.followed.strict]
    loose = [is_followed for prompt in prompts for is_followed in prompt.followed.loose]
    return {
        **_compute_share("prompt_loose_accuracy", [all(each.followed.loose) for each in prompts], clusters),
        **_compute_share("instruction_strict_accuracy", strict, by_instruction),
        **_compute_share("instruction_loose_accuracy", loose, by_instruction),
        "instructions": len(strict),
    }


def _compute_share(name: str, verdicts: Sequence[bool], clusters: Sequence[str | None]) -> dict[str, float]:
    shares = [float(verdict) for verdict in verdicts]
    low, high = accuracy_interval(shares, clusters)
    return {name: sum(shares) / len(shares), f"{name}_low": low, f"{name}_high": high}


def compute_accuracy_by_instruction_kind(prompts: Sequence[CheckedPrompt]) -> list[dict[str, Any]]:
    """Return the accuracy of each kind of instruction, most difficult first."""
    checked = [
        (kind, strict, loose)
        for prompt in prompts
        for kind, strict, loose in zip(
            prompt.kinds, prompt.followed.strict, prompt.followed.loose, strict=True
        )
    ]
    rows = [
        {
            "instruction": kind,
            "n": len(group),
            "strict_percent": _percent(strict for _, strict, _ in group),
            "loose_percent": _percent(loose for _, _, loose in group),
        }
        for kind, group in _group_values_by_key(checked, lambda each: each[0])
    ]
    return sorted(rows, key=lambda row: (row["strict_percent"], row["instruction"]))


def build_level_rows(prompts: Sequence[CheckedPrompt]) -> list[dict[str, Any]]:
    """Return the accuracy over the prompts with each number of instructions. Empty for a single number."""
    groups = sorted(_group_values_by_key(prompts, lambda prompt: len(prompt.kinds)))
    return [
        {
            "instructions": number,
            "prompts": len(group),
            "strict_percent": _percent(all(prompt.followed.strict) for prompt in group),
            "loose_percent": _percent(all(prompt.followed.loose) for prompt in group),
        }
        for number, group in groups
        if len(groups) > 1
    ]


def _group_values_by_key(
    values: Iterable[Any], find_key: Callable[[Any], Hashable]
) -> list[tuple[Any, list[Any]]]:
    groups: dict[Hashable, list[Any]] = {}
    for value in values:
        groups.setdefault(find_key(value), []).append(value)
    return [*groups.items()]


def _percent(verdicts: Iterable[bool]) -> float:
    each = [*verdicts]
    return round(100 * sum(each) / len(each), 1)

"""Samples that were answered several times: one sample counts as right if more than half of its answers are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from runner.compare.other_tools.tool_run import ToolSample


def joined(answers: Iterable[ToolSample]) -> list[ToolSample]:
    """Return each sample once, by its id; the number is the mean of its answers' numbers."""
    by_sample: dict[str, list[ToolSample]] = {}
    for one in answers:
        by_sample.setdefault(one.sample_id, []).append(one)
    return [_joined(several) if len(several) > 1 else several[0] for several in by_sample.values()]


def _joined(answers: list[ToolSample]) -> ToolSample:
    solved = sum(one.solved for one in answers)
    numbers = [one.number for one in answers if one.number is not None]
    return replace(
        answers[0],
        solved=2 * solved > len(answers),
        has_error=any(one.has_error for one in answers),
        right=(solved, len(answers)),
        number=math.fsum(numbers) / len(answers) if len(numbers) == len(answers) else None,
    )

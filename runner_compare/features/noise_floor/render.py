"""Formats sentences on the noise floor of a baseline."""

from __future__ import annotations

from collections.abc import Sequence

from runner_compare.features.noise_floor.compute import NoiseFloor


def format_noise_floor(floor: NoiseFloor, is_only: bool = True) -> str:
    """Return a sentence about a noise floor. It names the baseline's job unless there is only one floor."""
    share = f"{100 * floor.changed / floor.questions:.1f} %"
    name = "" if is_only else f" of {floor.baseline}"
    at_most = "at most " * (len(floor.repeats) > 1 and bool(floor.changed))
    runs = "two runs of the baseline"
    if len(floor.repeats) > 1:
        runs = f"the baseline and {len(floor.repeats)} repeats"
    return (
        f"noise floor{name}: {at_most}{floor.changed:,} of {floor.questions:,} answers differ between {runs} "
        f"({share})"
    )


def format_nondeterministic_answers_warning(floor: NoiseFloor) -> str:
    """Return a warning that repeated questions got other answers on an engine that promises equal ones."""
    texts = floor.changed_texts or 0
    changed, what = (texts, "texts") if texts > floor.changed else (floor.changed, "answers")
    return (
        f"warning: greedy decoding on a batch-invariant engine gives equal answers, but {changed:,} of "
        f"{floor.questions:,} {what} of {floor.baseline} differ. Check the engine before you compare models"
    )


def format_noise_floors(floors: Sequence[NoiseFloor]) -> list[str]:
    lines = [format_noise_floor(floor, len(floors) == 1) for floor in floors]
    return lines + [format_nondeterministic_answers_warning(floor) for floor in floors if floor.breaks_claim]

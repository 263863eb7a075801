"""Selects and ranks model settings that meet the user's limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from runner.estimates.recorded import FinishedJobs
from runner.options.advise.accuracies import find_recorded_accuracies
from runner.options.advise.candidates import (
    Candidate,
    Compose,
    UserLimits,
    evaluate_candidates,
    iterate_quantization_candidates,
    list_models_with_fewer_parameters,
)
from runner.options.advise.machines import Machine
from runner.options.advise.ranking import rank_candidates
from runner.options.advise.recorded_kl import find_recorded_kl, is_reference_config
from runner.options.advise.speculation_gains import find_recorded_speedups

MAX_RECOMMENDED = 5


@dataclass
class Advice:
    """Result of `runner-advise`: the recommended candidates, best first, and the rejected candidates."""

    chosen: list[Candidate] = field(default_factory=list)
    rejected: list[Candidate] = field(default_factory=list)


def recommend_settings(
    model_overrides: list[list[str]],
    compose: Compose,
    limits: UserLimits,
    machine: Machine | None,
    output_dir: Path,
    calibrate: bool,
    print_line: Callable[[str], None],
) -> Advice:
    """Evaluate and rank the candidate settings of a model.

    Smaller models are added if only few candidates meet the limits.

    model_overrides: the overrides of the model, or of each of several files.
    """
    asked = [
        setting
        for overrides in model_overrides
        for setting in iterate_quantization_candidates(overrides, compose, True)
    ]
    candidates, overrides = (
        evaluate_candidates(asked, limits, machine, output_dir, calibrate, print_line),
        model_overrides[0],
    )
    if sum(not candidate.problem for candidate in candidates) < 2 and not any(
        word.startswith("model.name=") for word in overrides
    ):
        for smaller in list_models_with_fewer_parameters(candidates[0]):
            others = [word for word in overrides if not word.startswith(("model=", "model.shape="))]
            smaller_candidates = list(
                iterate_quantization_candidates([f"model={smaller}", *others], compose, False)
            )
            judged = evaluate_candidates(
                smaller_candidates, limits, machine, output_dir, calibrate, print_line
            )
            # one of each
            candidates += [each for each in judged if not each.problem][:1] or judged[-1:]
    good = [candidate for candidate in candidates if not candidate.problem]
    finished = FinishedJobs(output_dir)
    known = find_recorded_accuracies([accepted.config for accepted in good], finished)
    for candidate, accuracy in zip(good, known, strict=True):
        candidate.accuracy, candidate.closeness = (accuracy, find_recorded_kl(candidate.config, finished))
        if machine is None:
            candidate.gains = find_recorded_speedups(candidate.config, finished)
    for candidate in good:
        candidate.reference_of = frozenset(
            other.closeness.job_id
            for other in good
            if other.closeness is not None
            and other is not candidate
            and is_reference_config(candidate.config, other.config, other.closeness, finished)
        )
    return Advice(
        rank_candidates(good, limits.memory_mib is not None)[:MAX_RECOMMENDED],
        [candidate for candidate in candidates if candidate.problem],
    )

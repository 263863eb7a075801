"""The advice: the candidates of a model that meet the limits, those of smaller models if these are
few, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from runner.estimates.recorded import FinishedJobs
from runner.options.advise.accuracies import recorded_accuracies
from runner.options.advise.candidates import (
    Candidate,
    Compose,
    UserLimits,
    candidate_settings,
    judge,
    smaller_models,
)
from runner.options.advise.closeness import is_reference, recorded_closeness
from runner.options.advise.gains import recorded_gains
from runner.options.advise.machines import Machine
from runner.options.advise.ranking import rank

MAX_RECOMMENDED = 5


@dataclass
class Advice:
    """The recommended candidates, in the order of recommendation, and the rejected ones."""

    chosen: list[Candidate] = field(default_factory=list)
    rejected: list[Candidate] = field(default_factory=list)


def advise(
    wanted: list[list[str]],
    compose: Compose,
    limits: UserLimits,
    machine: Machine | None,
    output_dir: Path,
    calibrate: bool,
    on_line: Callable[[str], None],
) -> Advice:
    """Judge the candidates of a model, and those of smaller models if few meet the limits, and rank
    them.

    wanted: the overrides of the model, or those of each of several files.
    """
    asked = [setting for overrides in wanted for setting in candidate_settings(overrides, compose, True)]
    candidates, overrides = judge(asked, limits, machine, output_dir, calibrate, on_line), wanted[0]
    if sum(not candidate.problem for candidate in candidates) < 2 and not any(
        word.startswith("model.name=") for word in overrides
    ):
        for smaller in smaller_models(candidates[0]):
            others = [word for word in overrides if not word.startswith(("model=", "model.shape="))]
            smaller_candidates = list(candidate_settings([f"model={smaller}", *others], compose, False))
            judged = judge(smaller_candidates, limits, machine, output_dir, calibrate, on_line)
            # one of each
            candidates += [each for each in judged if not each.problem][:1] or judged[-1:]
    good = [candidate for candidate in candidates if not candidate.problem]
    finished = FinishedJobs(output_dir)
    known = recorded_accuracies([accepted.config for accepted in good], finished)
    for candidate, accuracy in zip(good, known, strict=True):
        candidate.accuracy, candidate.closeness = (accuracy, recorded_closeness(candidate.config, finished))
        if machine is None:
            candidate.gains = recorded_gains(candidate.config, finished)
    for candidate in good:
        candidate.reference_of = frozenset(
            other.closeness.job_id
            for other in good
            if other.closeness is not None
            and other is not candidate
            and is_reference(candidate.config, other.config, other.closeness, finished)
        )
    return Advice(
        rank(good, limits.memory_mib is not None)[:MAX_RECOMMENDED],
        [candidate for candidate in candidates if candidate.problem],
    )

"""Estimates the smallest difference that a planned grid can detect, and how many questions the grid needs.

The baseline is the job that `task.early_stop_vs` names, or else the unquantized job of a grid
over quantizations. Other grids get no such lines. The numbers equal those of `runner-compare
--plan-questions`. Jobs with early stopping use an anytime-valid test, which needs more questions
than a single test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, comb, log2

from runner.config.questions import QuestionsConfig
from runner.config.root import RunnerConfig
from runner.datasets.questions import load_questions
from runner.estimates.jobs import JobEstimate
from runner.grid.plan import PlannedJob, PlanState
from runner.records.jobs import Job, read_samples
from runner_base import RunnerError, RunRecordError
from runner_base.notes import Note, note
from runner_compare.statistics import (
    ALPHA,
    POWER,
    estimate_disagreement_rate,
    find_detectable_accuracy_loss,
    plan_questions_for_margin,
)

UNQUANTIZED = "none"
MARGIN = 0.02  # the loss that is planned for, unless task.early_stop_margin names another one
USUAL_DISAGREEMENT = 0.1  # 4 bits on the embedded model's questions: 14 %, 8 bits: 2 % (docs/compare.md)
MAX_PAIRS = 8  # of jobs whose samples are read: more would take long and tell little


@dataclass
class ComparedJobs:
    """Jobs of a grid that answer the same questions as their baseline jobs."""

    where: str  # data and split
    questions: int
    baselines: dict[str, str]  # job -> its baseline, by their ids
    names: list[str]  # of the baselines
    jobs: dict[str, Job]
    numbers: list[int]  # of all of them in the plan
    is_done: dict[str, bool]
    margin: float
    stops_early: bool  # compared by bets while they run
    has_margin: bool  # and stop once it is decided whether they are as good within it
    task: QuestionsConfig  # of the first of them

    def compute_min_detectable_accuracy_loss(self, disagreement: float, alpha: float) -> float | None:
        """Return the smallest loss of accuracy that is detected with 80 % power, or None if no loss can
        be detected.
        """
        margin = self.margin if self.has_margin else None
        return find_detectable_accuracy_loss(self.questions, disagreement, alpha, self.stops_early, margin)

    def questions_needed(self, disagreement: float, alpha: float) -> int | None:
        """Return the number of questions for a non-inferiority test with 80 % power.

        The power applies to a job that is equal to its baseline.
        """
        return plan_questions_for_margin(self.margin, disagreement, alpha, self.stops_early, self.has_margin)


def make_statistical_power_notes(
    plan: Sequence[PlannedJob], estimates: Mapping[int, JobEstimate], is_quick: bool
) -> list[Note]:
    """Return notes on the smallest difference that each set of questions can detect.

    Unless `is_quick` is set, the notes also give the needed number of questions.
    """
    notes, sets = (
        _make_unknown_power_notes(plan),
        _group_jobs_with_baselines(plan, _has_verdicts_on_independent_questions),
    )
    for compared in sets:
        disagreement, pairs = _estimate_differing_verdict_fraction(compared)
        alpha = ALPHA / len(compared.baselines)
        where = compared.where if len(sets) > 1 else None
        notes.append(_make_detectable_difference_note(compared, disagreement, pairs, alpha, where))
        if not is_quick:  # an exact sum over all tables, with scipy
            needed = compared.questions_needed(disagreement, alpha)
            there = None if compared.task.limit is None else count_available_questions(compared.task)
            notes.append(
                note(
                    "questions_for_margin",
                    margin=compared.margin,
                    needed=None if needed is None else _round_up_to_3_digits(needed),
                    there=there if there is not None and needed is not None and needed > there else None,
                    jobs=len(compared.numbers),
                    seconds=None
                    if needed is None
                    else _estimate_seconds_for_questions(compared, estimates, needed),
                )
            )
    return notes


def _make_unknown_power_notes(plan: Sequence[PlannedJob]) -> list[Note]:
    """Return a note for each cluster key, which says that statistical power cannot be estimated.

    The correlation within a cluster is unknown before the jobs run.
    """
    fields = dict.fromkeys(
        compared.task.cluster
        for compared in _group_jobs_with_baselines(plan, _are_scored_questions_clustered)
    )
    return [note("clusters_not_planned", cluster=field) for field in fields]


def _make_detectable_difference_note(
    compared: ComparedJobs, disagreement: float, num_pairs: int, alpha: float, questions_label: str | None
) -> Note:
    """Return a note on the smallest accuracy difference that the planned questions can detect."""
    n, least = compared.questions, compared.compute_min_detectable_accuracy_loss(disagreement, alpha)
    if least is not None and least > disagreement:
        least = None
    may_detect_largest = (
        not compared.stops_early and _compute_max_mcnemar_power(n, disagreement, alpha) >= POWER
    )
    return note(
        "detectable",
        where=questions_label,
        questions=n,
        names=compared.names,
        power=POWER,
        least=least,
        may_detect_largest=may_detect_largest,
        comparisons=len(compared.baselines),
        disagreement=disagreement,
        pairs=num_pairs,
        by_bets=compared.stops_early,
    )


def _compute_max_mcnemar_power(num_questions: int, disagreement: float, alpha: float) -> float:
    """Return the power of McNemar's exact test for the extreme case that all discordant pairs favour
    the same job.
    """
    least = ceil(log2(2 / alpha))  # so many that all favour one job are significant
    chance = 1.0
    for count in range(min(least, num_questions + 1)):
        chance -= (
            comb(num_questions, count) * disagreement**count * (1 - disagreement) ** (num_questions - count)
        )
    return chance if num_questions >= least else 0.0


def count_available_questions(task: QuestionsConfig) -> int | None:
    """Return the size of the data set without task.limit. None if the size is unknown or unlimited."""
    if task.data == "embedded":
        return None
    try:
        return len(load_questions(replace(task, limit=None)))
    except RunnerError:  # of the hub, and not here
        return None


def _group_jobs_with_baselines(
    plan: Sequence[PlannedJob], should_include: Callable[[RunnerConfig | None], bool]
) -> list[ComparedJobs]:
    groups: dict[str, list[int]] = {}
    for number, planned in enumerate(plan):
        if planned.job is not None and planned.same_as is None and should_include(planned.config):
            groups.setdefault(planned.data_digest, []).append(number)
    found = []
    for numbers in groups.values():
        baselines, names = {}, dict[str, None]()
        for number in numbers:
            for base, name in _iterate_baseline_ids_and_labels(plan, number, numbers):
                baselines[plan[number].job_id] = base
                names[name] = None
        if baselines:
            of = [
                number for number in numbers if plan[number].job_id in baselines.keys() | baselines.values()
            ]
            tasks = [config.task for number in of if (config := plan[number].config) is not None]
            margins = [
                points for task in tasks if (points := getattr(task, "early_stop_margin", None)) is not None
            ]
            found.append(
                ComparedJobs(
                    " ".join(
                        str(getattr(tasks[0], key)) for key in ("data", "split") if hasattr(tasks[0], key)
                    ),
                    plan[of[0]].input_count or 0,
                    baselines,
                    list(names),
                    {plan[number].job_id: job for number in of if (job := plan[number].job) is not None},
                    of,
                    {plan[number].job_id: plan[number].state is PlanState.done for number in of},
                    margins[0] / 100 if margins else MARGIN,
                    any(plan[number].is_compared for number in of),
                    bool(margins),
                    next(filter(None, (task.questions_config for task in tasks))),
                )
            )
    return found


def _iterate_baseline_ids_and_labels(
    plan: Sequence[PlannedJob], number: int, candidate_numbers: Iterable[int]
) -> Iterable[tuple[str, str]]:
    """Yield the job id and label of the baseline of a job, if the job has a baseline."""
    planned = plan[number]
    config = planned.config
    if config is None:
        return
    if planned.after:
        yield planned.after, config.task.baseline_name or planned.after
    elif config.quantization.label != UNQUANTIZED and not planned.is_compared:
        for other in candidate_numbers:
            base = plan[other].config
            if (
                base is not None
                and base.quantization.label == UNQUANTIZED
                and _differs_only_in_quantization(config, base)
            ):
                yield plan[other].job_id, f"quantization={UNQUANTIZED}"
                return


def _differs_only_in_quantization(config: RunnerConfig, baseline: RunnerConfig) -> bool:
    return replace(baseline, quantization=config.quantization) == config


def _has_verdicts_on_independent_questions(config: RunnerConfig | None) -> bool:
    """Return whether a job gives one independent verdict per question, as the power calculation requires."""
    questions = None if config is None else config.task.questions_config
    return questions is not None and questions.has_independent_verdicts


def _are_scored_questions_clustered(config: RunnerConfig | None) -> bool:
    """Return whether a job gives verdicts on questions that belong to clusters."""
    questions = None if config is None else config.task.questions_config
    return questions is not None and questions.gives_verdicts and questions.cluster is not None


def _estimate_differing_verdict_fraction(compared: ComparedJobs) -> tuple[float, int]:
    """Return the expected fraction of questions on which the verdicts of two jobs differ.

    Also returns the number of finished job pairs that the estimate uses.

    With 0 pairs, the fraction is a typical value.
    """
    differing = n = pairs = 0
    for job_id, base_id in compared.baselines.items():
        if pairs < MAX_PAIRS and compared.is_done.get(job_id) and compared.is_done.get(base_id):
            try:
                solved, base_solved = (
                    _solved_by_question(compared.jobs[compared_id]) for compared_id in (job_id, base_id)
                )
            except RunRecordError:  # damaged samples are reported where they are used
                continue
            both = solved.keys() & base_solved.keys()
            differing += sum(solved[index] != base_solved[index] for index in both)
            n, pairs = n + len(both), pairs + bool(both)
    return (estimate_disagreement_rate(differing, n) if pairs else USUAL_DISAGREEMENT), pairs


def _solved_by_question(job: Job) -> dict[int, bool]:
    samples = read_samples(job.samples_path).values()
    return {sample.index: sample.solved for sample in samples if not sample.failed and not sample.left_out}


def _estimate_seconds_for_questions(
    compared: ComparedJobs, estimates: Mapping[int, JobEstimate], num_questions: int
) -> float | None:
    """Estimate the run time of the compared jobs with `num_questions` questions, in seconds. None if
    any time is unknown.
    """
    times = [estimates[number].time for number in compared.numbers if number in estimates]
    known = [time.seconds for time in times if time is not None]
    if len(known) < len(compared.numbers) or not compared.questions:
        return None
    return sum(known) * num_questions / compared.questions


def _round_up_to_3_digits(number: int) -> int:
    step = int(10 ** max(0, len(str(number)) - 3))
    return -(-number // step) * step

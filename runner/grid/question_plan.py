"""What the questions of a grid can show: under the plan of jobs that are to be compared with a
baseline.

The baseline is the job that `task.early_stop_vs` names or, without it, the unquantized one among
quantized ones: a grid over models or prompts names none, and gets no such lines. The numbers are
those of `runner-compare --plan-questions`; for jobs that stop early they are those of their bets,
which need more questions than a single look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, comb, log2

from runner.config.questions import QuestionsConfig
from runner.config.root import RunnerConfig
from runner.datasets.gsm8k import load_questions
from runner.estimates.jobs import JobEstimate
from runner.grid.plan import PlannedJob, State
from runner.records.jobs import Job, read_samples
from runner_base import EvidenceError, RunnerError
from runner_base.notes import Note, note
from runner_compare.statistics import (
    ALPHA,
    POWER,
    detectable_loss,
    expected_disagreement,
    questions_for_margin,
)

UNQUANTIZED = "none"
MARGIN = 0.02  # the loss that is planned for, unless task.early_stop_margin names another one
USUAL_DISAGREEMENT = 0.1  # 4 bits on the embedded model's questions: 14 %, 8 bits: 2 % (docs/compare.md)
MAX_PAIRS = 8  # of jobs whose samples are read: more would take long and tell little


@dataclass
class ComparedJobs:
    """Jobs of a grid that answer the same questions as their baselines."""

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

    def detectable(self, disagreement: float, alpha: float) -> float | None:
        """Return the smallest loss that a job detects with 80 % power; None without one."""
        margin = self.margin if self.has_margin else None
        return detectable_loss(self.questions, disagreement, alpha, self.stops_early, margin)

    def needed(self, disagreement: float, alpha: float) -> int | None:
        """Return how many questions show with 80 % power that a job is as good, if neither is
        better."""
        return questions_for_margin(self.margin, disagreement, alpha, self.stops_early, self.has_margin)


def question_notes(
    plan: Sequence[PlannedJob], estimates: Mapping[int, JobEstimate], is_quick: bool
) -> list[Note]:
    """Return what each set of questions can show; without the number of questions for a margin if
    `is_quick`."""
    notes, sets = _cluster_notes(plan), _compared(plan, _has_verdicts)
    for compared in sets:
        disagreement, pairs = _disagreement(compared)
        alpha = ALPHA / len(compared.baselines)
        where = compared.where if len(sets) > 1 else None
        notes.append(_detectable(compared, disagreement, pairs, alpha, where))
        if not is_quick:  # an exact sum over all tables, with scipy
            needed = compared.needed(disagreement, alpha)
            there = None if compared.task.limit is None else questions_there(compared.task)
            notes.append(
                note(
                    "questions_for_margin",
                    margin=compared.margin,
                    needed=None if needed is None else _rounded(needed),
                    there=there if there is not None and needed is not None and needed > there else None,
                    jobs=len(compared.numbers),
                    seconds=None if needed is None else _seconds(compared, estimates, needed),
                )
            )
    return notes


def _cluster_notes(plan: Sequence[PlannedJob]) -> list[Note]:
    """Return a note for each kind of clusters that jobs are compared by.

    How much the verdicts of a cluster have in common is unknown before the jobs run.
    """
    fields = dict.fromkeys(compared.task.cluster for compared in _compared(plan, _has_clusters))
    return [note("clusters_not_planned", cluster=field) for field in fields]


def _detectable(
    compared: ComparedJobs, disagreement: float, pairs: int, alpha: float, where: str | None
) -> Note:
    """Return which difference so many questions could detect; no difference exceeds the share of
    verdicts that differ."""
    n, least = compared.questions, compared.detectable(disagreement, alpha)
    if least is not None and least > disagreement:
        least = None
    may_detect_largest = not compared.stops_early and _largest_power(n, disagreement, alpha) >= POWER
    return note(
        "detectable",
        where=where,
        questions=n,
        names=compared.names,
        power=POWER,
        least=least,
        may_detect_largest=may_detect_largest,
        comparisons=len(compared.baselines),
        disagreement=disagreement,
        pairs=pairs,
        by_bets=compared.stops_early,
    )


def _largest_power(n: int, disagreement: float, alpha: float) -> float:
    """Return the power of McNemar's exact test if all verdicts that differ favour one job."""
    least = ceil(log2(2 / alpha))  # so many that all favour one job are significant
    chance = 1.0
    for count in range(min(least, n + 1)):
        chance -= comb(n, count) * disagreement**count * (1 - disagreement) ** (n - count)
    return chance if n >= least else 0.0


def questions_there(task: QuestionsConfig) -> int | None:
    """Return how many questions a job could ask without its limit; None if the data cannot be read,
    or have no end."""
    if task.data == "embedded":
        return None
    try:
        return len(load_questions(replace(task, limit=None)))
    except RunnerError:  # of the hub, and not here
        return None


def _compared(
    plan: Sequence[PlannedJob], counts: Callable[[RunnerConfig | None], bool]
) -> list[ComparedJobs]:
    """Return the jobs that count, on the same questions, with a baseline in this plan or by
    name."""
    groups: dict[str, list[int]] = {}
    for number, planned in enumerate(plan):
        if planned.job is not None and planned.same_as is None and counts(planned.config):
            groups.setdefault(planned.data_digest, []).append(number)
    found = []
    for numbers in groups.values():
        baselines, names = {}, dict[str, None]()
        for number in numbers:
            for base, name in _baseline(plan, number, numbers):
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
                    {plan[number].job_id: plan[number].state is State.done for number in of},
                    margins[0] / 100 if margins else MARGIN,
                    any(plan[number].is_compared for number in of),
                    bool(margins),
                    next(filter(None, (task.of_questions for task in tasks))),
                )
            )
    return found


def _baseline(plan: Sequence[PlannedJob], number: int, among: Iterable[int]) -> Iterable[tuple[str, str]]:
    """Yield the id of a job's baseline, and the words for it, if it has one."""
    planned = plan[number]
    config = planned.config
    if config is None:
        return
    if planned.after:
        task = config.task.of_questions
        yield planned.after, (task is not None and task.compared_with) or planned.after
    elif config.quantization.label != UNQUANTIZED and not planned.is_compared:
        for other in among:
            base = plan[other].config
            if (
                base is not None
                and base.quantization.label == UNQUANTIZED
                and _differ_in_quantization(config, base)
            ):
                yield plan[other].job_id, f"quantization={UNQUANTIZED}"
                return


def _differ_in_quantization(config: RunnerConfig, base: RunnerConfig) -> bool:
    """Whether two jobs differ in nothing but the quantization."""
    return replace(base, quantization=config.quantization) == config


def _has_verdicts(config: RunnerConfig | None) -> bool:
    """Whether a job gives one verdict on each of independent questions: only for these the numbers
    are known."""
    questions = None if config is None else config.task.of_questions
    return questions is not None and questions.has_independent_verdicts


def _has_clusters(config: RunnerConfig | None) -> bool:
    """Whether a job gives verdicts on questions that belong to clusters."""
    questions = None if config is None else config.task.of_questions
    return questions is not None and questions.gives_verdicts and questions.cluster is not None


def _disagreement(compared: ComparedJobs) -> tuple[float, int]:
    """Return the share of questions on which two runs are expected to differ, and how many pairs of
    finished jobs it is from; 0: it is the usual one."""
    differing = n = pairs = 0
    for job_id, base_id in compared.baselines.items():
        if pairs < MAX_PAIRS and compared.is_done.get(job_id) and compared.is_done.get(base_id):
            try:
                solved, base_solved = (
                    _solved(compared.jobs[compared_id]) for compared_id in (job_id, base_id)
                )
            except EvidenceError:  # damaged samples are reported where they are used
                continue
            both = solved.keys() & base_solved.keys()
            differing += sum(solved[index] != base_solved[index] for index in both)
            n, pairs = n + len(both), pairs + bool(both)
    return (expected_disagreement(differing, n) if pairs else USUAL_DISAGREEMENT), pairs


def _solved(job: Job) -> dict[int, bool]:
    """Return which questions a job has solved."""
    samples = read_samples(job.samples_path).values()
    return {sample.index: sample.solved for sample in samples if not sample.failed and not sample.left_out}


def _seconds(compared: ComparedJobs, estimates: Mapping[int, JobEstimate], questions: int) -> float | None:
    """Return how long all jobs would take with so many questions, in proportion to what they take
    with theirs; None if that is not known of all."""
    times = [estimates[number].time for number in compared.numbers if number in estimates]
    known = [time.seconds for time in times if time is not None]
    if len(known) < len(compared.numbers) or not compared.questions:
        return None
    return sum(known) * questions / compared.questions


def _rounded(number: int) -> int:
    """Round up to three digits: a plan is no more exact."""
    step = int(10 ** max(0, len(str(number)) - 3))
    return -(-number // step) * step

"""Implements task.early_stop_vs: compares a running job with a baseline job, and stops it at the first
verdict.

Tasks with one verdict per question share this policy. A task lists its questions, and the keys that must
be equal in both jobs.

The jobs of a grid with this key share an error rate of 5 %: each decides at its share, and
runner-compare keeps its verdict. With task.early_stop_margin a job stops once it is decided
whether it is as good as the baseline within that margin.

A job decides at 5 % divided by the comparisons of its grid, and Holm's method leaves its
verdict unchanged: one question multiplies the capital by 1.9 at most, so p at the stop is
hardly below the level, and Holm's steps need all p at once. runner-compare uses the same test
for such jobs, stopped or not: a test for a single look does not hold its level where a job
stopped because p was small (bench/compare/early_stop_tables.py).

A job that answers all questions without a decision tests all pairs once more, with 15 % of its
error rate. It has no such final test if it may reuse the answers of a job that had one after
another number of questions.

Pairs are tested in the order of the questions, whichever answers came first: short answers come
early, and are right more often than long ones. So neither speed nor a kill changes where a job
stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from runner.config.early_stop import EarlyStopConfig
from runner.config.root import RunnerConfig
from runner.records.flat_config import flatten_config
from runner.records.jobs import Job, read_samples
from runner.records.sibling_jobs import find_jobs_with_reusable_answers
from runner.render.notes import render_notes
from runner.tasks import named_job
from runner.tasks.base import TaskContext, TaskInputs, typed_task_config
from runner.tasks.collecting import Policy
from runner_base import ConfigError, Result, Sample, Verdict
from runner_base.named_jobs import JobReference
from runner_base.notes import Note, note
from runner_compare import (
    InterimComparison,
    format_interim_summary,
    format_interim_verdict,
    format_significance_level,
)

KEY = "task.early_stop_vs"
# of the baseline, the share of the 5 %, the margin
HASHES = ("until", "early_stop_comparisons", "early_stop_margin")
FACT = "early_stop_vs"  # a job that has it was compared while it ran
GROUPS = (*named_job.MODEL_GROUPS, "generation")  # what overrides may change
MIN_AHEAD = 32  # at least so many questions are under way, so that an engine has rows to decode together


@dataclass
class ComparedInputs(TaskInputs):
    """Inputs of a task with the keys of early stopping."""

    baseline: Job | None = field(default=None, kw_only=True)  # that the job is compared with while it runs

    def find_baseline_and_extend_hashes(self, config: RunnerConfig, version: int) -> None:
        """Find the baseline job, which must run first, and add its id to the hashes.

        Call it last: the baseline has the same hashes. A job that names itself has no baseline.
        """
        task = typed_task_config(config, EarlyStopConfig)
        named = task.early_stop_vs
        if named is None:
            return
        self.baseline = named_job.find_referenced_job(
            config, KEY, named, version, self.hashes, allowed_groups=GROUPS
        )
        if self.baseline is not None:
            self.hashes |= build_comparison_hashes(task, self.baseline)
            self.ignored_for_reuse |= set(HASHES)
            self.after, self.is_compared = self.baseline.job_id, True
            self.after_overrides = named_job.parse_named_overrides(named, task)


def has_configured_baseline(config: RunnerConfig) -> bool:
    """Return whether the config has a baseline. Reads only config keys, not input files."""
    task = typed_task_config(config, EarlyStopConfig)
    named = task.early_stop_vs
    if named is None or named_job.is_job_id(named, task):
        return named is not None
    return named_job.apply_overrides_from_text(config, KEY, named, GROUPS) != config


def build_comparison_hashes(task: EarlyStopConfig, baseline: Job) -> dict[str, str]:
    margin = [] if task.early_stop_margin is None else [str(float(task.early_stop_margin))]
    return dict(zip(HASHES, [baseline.job_id, str(count_comparisons(task)), *margin], strict=False))


def count_comparisons(task: EarlyStopConfig) -> int:
    return task.early_stop_comparisons or 1


def margin_fraction(task: EarlyStopConfig) -> float | None:
    """Return the loss of accuracy that the user accepts, as a fraction. None without a margin."""
    return None if task.early_stop_margin is None else task.early_stop_margin / 100


def make_early_stopping_baseline_notes(config: RunnerConfig, inputs: ComparedInputs) -> list[Note]:
    """Return a note for plan=true: with which job this job is compared. Empty without a baseline."""
    task, baseline = typed_task_config(config, EarlyStopConfig), inputs.baseline
    if baseline is None:
        return []
    against = note(
        "stops_early_against",
        named_as=task.early_stop_vs,
        job=baseline.job_id,
        state=named_job.describe_job_state(baseline),
        margin=margin_fraction(task),
        count=inputs.count,
        comparisons=count_comparisons(task),
    )
    return [against]


def create_early_stop_policy(
    inputs: ComparedInputs,
    context: TaskContext,
    version: int,
    questions: Mapping[int, tuple[str | None, str | None]],
    alike: Sequence[str],
) -> EarlyStop | None:
    """Return the policy of a job with a baseline, otherwise None.

    `questions` are the question and gold answer of each sample, by its index and in order. Both jobs must
    have them, and the same value of each key of the task in `alike`.
    """
    if inputs.baseline is None:
        return None
    return EarlyStop.from_finished_baseline(
        inputs.baseline, context.config, version, questions, alike, context.recorder.job
    )


@dataclass
class EarlyStop(Policy):
    """Policy that compares a running job with its baseline, and stops the job at the first statistical
    verdict.
    """

    named_as: str  # how the user has named the baseline
    job: Job
    solved: list[bool]  # of each question of the job, in order: whether the baseline solved it
    cut_off: list[bool]  # and whether its answer was cut off
    numbers: Sequence[int]  # of these questions; task.only leaves gaps
    min_ahead: int = MIN_AHEAD
    comparisons: int = 1  # share the 5 %
    margin: float | None = None  # decides about this one, and not about any difference
    final_test_job: str = ""  # the id of the job that has used the final test
    bets: InterimComparison = field(default_factory=InterimComparison)  # on the pairs so far
    asked: int = 0  # so many questions, from the first on, were looked at
    _waiting: dict[int, Sample] = field(default_factory=dict)  # answers to later questions

    @classmethod
    def from_finished_baseline(
        cls,
        job: Job,
        config: RunnerConfig,
        version: int,
        questions: Mapping[int, tuple[str | None, str | None]],
        alike: Sequence[str],
        stopping_job: Job,
    ) -> EarlyStop:
        """Create the policy of a stopping job from a finished baseline. Raises ConfigError if the two jobs
        cannot be compared.
        """
        task = typed_task_config(config, EarlyStopConfig)
        named_as = task.early_stop_vs or ""
        record = named_job.wait_for_finished_record(job, KEY, named_as)
        if FACT in record.result.facts:
            raise ConfigError(
                f"{job.job_id} uses early stopping too. Give a job that answers all questions",
                key=KEY,
                value=named_as,
                code="conflict",
            )
        own_params = dict(flatten_config(config))
        keys = [f"task.{key}" for key in alike]
        base_params = {key: record.params.get(key, own_params[key]) for key in keys}
        other = [
            f"{key} ({value}, here {own_params[key]})"
            for key, value in base_params.items()
            if value != own_params[key]
        ]
        if record.task_version != version:
            other.append(f"the task version ({record.task_version}, here {version})")
        if other:
            raise ConfigError(
                (
                    f"{job.job_id} cannot be compared question by question, because it differs in "
                    f"{', '.join(other)}"
                ),
                key=KEY,
                value=named_as,
                code="mismatch",
            )
        samples = read_samples(job.samples_path)
        for number, question in questions.items():
            sample = samples.get(number)
            if sample is None or (sample.question, sample.gold) != question:
                raise named_job.missing_question_error(KEY, named_as, job, number)
        numbers = list(questions)
        solved = [samples[number].solved for number in numbers]
        cut_off = [samples[number].answer.verdict is Verdict.cut_off for number in numbers]
        ahead = max(MIN_AHEAD, config.generation.batch_size or 0)
        return cls(
            named_as,
            job,
            solved,
            cut_off,
            numbers,
            ahead,
            count_comparisons(task),
            margin_fraction(task),
            _find_earlier_final_test_job(stopping_job, job, len(numbers)),
        )

    def start(self, samples: Mapping[int, Sample]) -> int | None:
        self.bets = InterimComparison(self.comparisons, self.margin, has_final_test=not self.final_test_job)
        self.asked, self._waiting = 0, dict(samples)
        return self._test_answered_questions_until_decided()

    def on_answer(self, sample: Sample) -> int | None:
        self._waiting[sample.index] = sample
        return self._test_answered_questions_until_decided()

    def max_in_flight(self, num_ended: int) -> int:
        """Limit the number of unfinished questions, so that an early stop discards few answers."""
        return max(self.min_ahead, num_ended)

    def _test_answered_questions_until_decided(self) -> int | None:
        """Test the answered questions in order. Returns how many questions the verdict needed, or None
        while undecided.

        Errors and excluded questions form no pairs.
        """
        while not self.bets.is_decided and self.asked < len(self.numbers):
            if (sample := self._waiting.pop(self.numbers[self.asked], None)) is None:
                break
            if not sample.failed and not sample.left_out:
                is_cut_off = sample.answer.verdict is Verdict.cut_off
                self.bets.add_pair(
                    sample.solved, self.solved[self.asked], is_cut_off, self.cut_off[self.asked]
                )
            self.asked += 1
        return self.asked if self.bets.is_decided else None

    def finish(self, samples: Iterable[Sample]) -> None:
        """Run the final test if all questions were answered without a decision and without an error."""
        if self.asked == len(self.numbers) and not any(sample.failed for sample in samples):
            self.bets.run_final_test()

    # -------------------------------------------------------------------------------------- reports

    def add_to_result(self, result: Result) -> None:
        """Add the comparison to the result of a job, with a warning if the job stopped early."""
        result.metrics |= self.metrics
        result.facts |= self.facts
        result.notes += render_notes(self.make_stopped_early_notes())

    def make_stopped_early_notes(self) -> list[Note]:
        """Return the warning about the accuracy of a job that stopped early."""
        has_stopped = self.asked < len(self.solved)
        return [note("stopped_early", "warning", baseline=self.facts[FACT])] if has_stopped else []

    def progress_fields(self) -> dict[str, str]:
        return {"after": f"{self.asked} questions: {format_interim_summary(self.bets)}"}

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the comparison. The difference is this job's accuracy minus the baseline's accuracy."""
        figures = {f"early_stop_{name}": value for name, value in self.bets.to_metrics.items()}
        return {"questions_asked": self.asked, "questions_left": len(self.solved) - self.asked, **figures}

    @property
    def facts(self) -> dict[str, str]:
        """Recorded facts: the baseline, the significance level and the decision."""
        verdict = (
            f"{format_interim_verdict(self.bets)} after {self.asked:,} of {len(self.solved):,} questions"
        )
        return {
            FACT: JobReference(
                "" if self.named_as == self.job.job_id else self.named_as, self.job.job_id
            ).to_fact(),
            "early_stop_level": format_significance_level(self.comparisons),
            "early_stop_verdict": verdict,
        } | ({"early_stop_final_test": f"used by {self.final_test_job}"} if self.final_test_job else {})


def _find_earlier_final_test_job(stopping_job: Job, baseline: Job, num_questions: int) -> str:
    """Return the id of a job with reusable answers whose final test had another number of questions."""
    for other in find_jobs_with_reusable_answers(stopping_job):
        record = other.read_last_record()
        if (
            record is not None
            and JobReference.from_fact(record.result.facts.get(FACT, "")).job_id == baseline.job_id
            and record.result.metrics.get("early_stop_final_test_part")
            and record.result.metrics["questions_left"] == 0
            and record.result.metrics["questions_asked"] != num_questions
        ):
            return other.job_id
    return ""

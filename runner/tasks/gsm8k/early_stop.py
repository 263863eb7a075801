"""task.early_stop_vs: compares task=gsm8k with a baseline job while it runs, and stops once the difference is decided.

The jobs of a grid that do so share an error of 5 %: each decides at its share, and runner-compare keeps its verdict.
With task.early_stop_margin a job stops once it is decided whether it is as good as the baseline within that margin.

A job decides at 5 % divided by the comparisons of its grid, and Holm leaves its verdict alone: one question multiplies
the capital by 1.9 at most, so p at the stop is hardly below the level, and Holm's steps need all p at once.
runner-compare uses the same test for such jobs, stopped or not: a test for a single look does not hold its level where
a job stopped because p was small (bench/compare/early_stop_tables.py).

Pairs are tested in the order of the questions, whichever answers came first: short answers come early, and are right
more often than long ones. So neither speed nor a kill changes where a job stops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runner.datasets.chosen import numbers_of
from runner.records.flat_config import flatten
from runner.tasks import Item, Job, Policy, RunnerConfig, named_job, own_config, read_samples
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base import ConfigError, Sample, Verdict
from runner_base.named_jobs import NamedJob
from runner_base.notes import Note, note
from runner_compare import RunningBets, bets_verdict, bets_words, level_words

KEY = "task.early_stop_vs"
# of the baseline, the share of the 5 %, the margin
HASHES = ("until", "early_stop_comparisons", "early_stop_margin")
FACT = "early_stop_vs"  # a job that has it was compared while it ran
GROUPS = (*named_job.MODEL_GROUPS, "generation")  # what overrides may change
# A baseline that is named by its id must have these in common: what is asked, and how answers are
# scored.
ALIKE = tuple(f"task.{key}" for key in ("prompt", "template", "shots", "system", "instruction", "extractor"))
MIN_AHEAD = 32  # at least so many questions are under way, so that an engine has rows to decode together


def find_baseline(config: RunnerConfig, version: int, hashes: dict[str, str]) -> Job | None:
    """Return the baseline, finished or not; None if there is none, or if the job is its own."""
    task = own_config(config, Gsm8kConfig)
    named = task.early_stop_vs
    return None if named is None else named_job.find(config, KEY, named, version, hashes, groups=GROUPS)


def is_compared(config: RunnerConfig) -> bool:
    """Whether the job names another one by its keys, where the files that identify the two are not
    here yet."""
    task = own_config(config, Gsm8kConfig)
    named = task.early_stop_vs
    if named is None or named_job.is_id(named, task):
        return named is not None
    return named_job.overridden(config, KEY, named, GROUPS) != config


def hashes_of(task: Gsm8kConfig, baseline: Job) -> dict[str, str]:
    """Return what identifies the comparison: with another share of the 5 % or another margin it may
    stop elsewhere."""
    margin = [] if task.early_stop_margin is None else [str(float(task.early_stop_margin))]
    return dict(zip(HASHES, [baseline.job_id, str(comparisons_of(task)), *margin], strict=False))


def comparisons_of(task: Gsm8kConfig) -> int:
    """Return how many comparisons share the 5 %: a grid has counted them; a job that runs alone is
    the only one."""
    return task.early_stop_comparisons or 1


def margin_of(task: Gsm8kConfig) -> float | None:
    """Return the margin as a fraction; None if there is none."""
    return None if task.early_stop_margin is None else task.early_stop_margin / 100


def preview_baseline(task: Gsm8kConfig, baseline: Job, count: int) -> Note:
    """Return for a plan which job this one is compared with, at which level, and how many questions
    that may take."""
    return note(
        "stops_early_against",
        named_as=task.early_stop_vs,
        job=baseline.job_id,
        state=named_job.state(baseline),
        margin=margin_of(task),
        count=count,
        comparisons=comparisons_of(task),
    )


@dataclass
class EarlyStop(Policy):
    """The verdicts of the baseline, and the decision of the pairs so far."""

    named_as: str  # how the user has named the baseline
    job: Job
    solved: list[bool]  # of each question of the job, in order: whether the baseline solved it
    cut_off: list[bool]  # and whether its answer was cut off
    numbers: Sequence[int]  # of these questions; task.only leaves gaps
    min_ahead: int = MIN_AHEAD
    comparisons: int = 1  # share the 5 %
    margin: float | None = None  # decides about this one, and not about any difference
    bets: RunningBets = field(default_factory=RunningBets)  # on the pairs so far
    asked: int = 0  # so many questions, from the first on, were looked at
    _waiting: dict[int, Sample] = field(default_factory=dict)  # answers to later questions

    @classmethod
    def read(cls, job: Job, config: RunnerConfig, version: int, items: Sequence[Item]) -> EarlyStop:
        """Read the finished baseline; ConfigError if it is not finished, or did not ask the same
        questions."""
        task = own_config(config, Gsm8kConfig)
        named_as = task.early_stop_vs or ""
        record = named_job.finished(job, KEY, named_as)
        if FACT in record.result.facts:
            raise ConfigError(
                f"{job.job_id} has {KEY} itself: name a job that asks all of its questions",
                key=KEY,
                value=named_as,
                code="conflict",
            )
        own_params = dict(flatten(config))
        base_params = {key: record.params.get(key, own_params[key]) for key in ALIKE}
        other = [
            f"{key} ({value}, here {own_params[key]})"
            for key, value in base_params.items()
            if value != own_params[key]
        ]
        if record.task_version != version:
            other.append(f"the version of the task ({record.task_version}, here {version})")
        if other:
            raise ConfigError(
                f"{job.job_id} differs in {', '.join(other)}: its verdicts cannot be paired with this job's",
                key=KEY,
                value=named_as,
                code="mismatch",
            )
        samples = read_samples(job.samples_path)
        for item in items:
            sample = samples.get(item.number)
            if sample is None or (sample.question, sample.gold) != (item.question, item.gold):
                raise named_job.not_asked(KEY, named_as, job, item.number)
        numbers = numbers_of(items)
        solved = [samples[number].solved for number in numbers]
        cut_off = [samples[number].answer.verdict is Verdict.cut_off for number in numbers]
        ahead = max(MIN_AHEAD, config.generation.batch_size or 0)
        return cls(named_as, job, solved, cut_off, numbers, ahead, comparisons_of(task), margin_of(task))

    def begin(self, settled: Mapping[int, Sample]) -> int | None:
        """Begin with the samples that exist; return how many questions are enough, None to
        continue."""
        self.bets = RunningBets(self.comparisons, self.margin)
        self.asked, self._waiting = 0, dict(settled)
        return self._go_on()

    def answered(self, sample: Sample) -> int | None:
        """Take one more sample; return how many questions are enough, None to continue."""
        self._waiting[sample.index] = sample
        return self._go_on()

    def ahead(self, ended: int) -> int:
        """Return as many as have ended: no more answers are discarded at the end than were
        needed."""
        return max(self.min_ahead, ended)

    def _go_on(self) -> int | None:
        """Take samples up to the first question without one; errors, and questions left out, make
        no pairs."""
        while not self.bets.is_decided and self.asked < len(self.numbers):
            if (sample := self._waiting.pop(self.numbers[self.asked], None)) is None:
                break
            if not sample.failed and not sample.left_out:
                is_cut_off = sample.answer.verdict is Verdict.cut_off
                self.bets.add(sample.solved, self.solved[self.asked], is_cut_off, self.cut_off[self.asked])
            self.asked += 1
        return self.asked if self.bets.is_decided else None

    # -------------------------------------------------------------------------------------- reports

    def news(self) -> dict[str, str]:
        """What the progress bar shows."""
        return {"after": f"{self.asked} questions: {bets_words(self.bets)}"}

    @property
    def metrics(self) -> dict[str, float]:
        """The job's metrics; the difference is this job's accuracy minus the baseline's."""
        figures = {f"early_stop_{name}": value for name, value in self.bets.figures.items()}
        return {"questions_asked": self.asked, "questions_left": len(self.solved) - self.asked, **figures}

    @property
    def facts(self) -> dict[str, str]:
        """The baseline, the level and the decision."""
        verdict = f"{bets_verdict(self.bets)} after {self.asked:,} of {len(self.solved):,} questions"
        return {
            FACT: NamedJob(
                "" if self.named_as == self.job.job_id else self.named_as, self.job.job_id
            ).to_fact(),
            "early_stop_level": level_words(self.comparisons),
            "early_stop_verdict": verdict,
        }

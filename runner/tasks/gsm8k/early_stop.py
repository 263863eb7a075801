"""task.early_stop_vs: compares task=gsm8k with a baseline job while it runs, and stops once the difference is decided.

Pairs are tested in the order of the questions, whichever answers came first: short answers come early, and are right
more often than long ones. So the place where a job stops depends neither on its speed nor on a kill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runner.config.root import RunnerConfig
from runner.config.task import Gsm8kConfig
from runner.core.errors import ConfigError
from runner.core.metrics import points
from runner.core.result import Sample, Verdict
from runner.core.sequential import Decision, Pairs
from runner.datasets.gsm8k import Item
from runner.store.jobs import Job, read_samples
from runner.store.tracking import flatten
from runner.tasks import named_job
from runner.tasks.base import own_config

KEY = "task.early_stop_vs"
HASH = "until"  # its name among the hashes
FACT = "early_stop_vs"  # a job that has it was compared while it asked
GROUPS = (*named_job.MODEL_GROUPS, "generation")  # what overrides may choose otherwise
# A baseline that is named by its id has to have these in common: what is asked, and by which rule an answer scores.
ALIKE = tuple(f"task.{key}" for key in ("prompt", "template", "shots", "system", "instruction", "extractor"))
LEAST_AHEAD = 32  # questions that are under way at least, so that an engine has rows to decode together


def find_baseline(config: RunnerConfig, version: int, hashes: dict[str, str]) -> Job | None:
    """Return the baseline, be it done or not; None where there is none, or the job is its own."""
    task = own_config(config, Gsm8kConfig)
    words = task.early_stop_vs
    return None if words is None else named_job.find(config, KEY, words, version, hashes, groups=GROUPS)


def preview_baseline(baseline: Job, words: str, count: int) -> str:
    """Say for a plan with which job this one is compared, and how many questions it may take."""
    return f"early stop: {words} ({baseline.job_id}), {named_job.state(baseline)}; at most {count:,} questions"


@dataclass
class EarlyStop:
    """The verdicts of the baseline, and what the pairs with this job's say so far."""

    words: str  # how the user has named the baseline
    job: Job
    solved: list[bool]  # by the number of the question: whether the baseline did
    least_ahead: int = LEAST_AHEAD
    pairs: Pairs = field(default_factory=Pairs)
    asked: int = 0  # questions up to which pairs were looked at
    _waiting: dict[int, Sample] = field(default_factory=dict)  # answers to later ones

    @classmethod
    def read(cls, job: Job, config: RunnerConfig, version: int, items: Sequence[Item]) -> EarlyStop:
        """Read the baseline once it is done; ConfigError where it is not, or did not put the same questions."""
        task = own_config(config, Gsm8kConfig)
        words = task.early_stop_vs or ""
        record = named_job.wait_for(job)
        if record is None:
            by_id = words == job.job_id
            what = "no finished job of that id" if by_id else f"that job ({job.job_id}) is not done"
            to_run = "Run it first" + ("" if by_id else f": the same command with {words} and without {KEY}")
            raise ConfigError(f"{KEY}={words}: {what} in {job.folder.parent}. {to_run}")
        named = f"{KEY}={words}: {job.job_id}"
        if FACT in record.result.facts:
            raise ConfigError(f"{named} has {KEY} itself: name a job that puts all of its questions")
        mine = dict(flatten(config))
        theirs = {key: record.params.get(key, mine[key]) for key in ALIKE}
        other = [f"{key} ({value}, here {mine[key]})" for key, value in theirs.items() if value != mine[key]]
        if record.task_version != version:
            other.append(f"the version of the task ({record.task_version}, here {version})")
        if other:
            raise ConfigError(f"{named} differs in {', '.join(other)}: its verdicts are no pairs with this job's")
        samples = read_samples(job.samples_path)
        for number, item in enumerate(items):
            sample = samples.get(number)
            if sample is None or (sample.question, sample.gold) != (item.question, item.gold):
                raise ConfigError(
                    f"{named} has not put question {number} of this job: it was run on other data, or with another "
                    "task.split, task.offset or task.shuffle_seed, or a smaller task.limit"
                )
        solved = [samples[number].verdict is Verdict.correct for number in range(len(items))]
        return cls(words, job, solved, max(LEAST_AHEAD, config.generation.batch_size or 0))

    def begin(self, settled: Mapping[int, Sample]) -> int | None:
        """Begin with what is not asked any more; return how many questions are enough, None to go on."""
        self.pairs, self.asked, self._waiting = Pairs(), 0, dict(settled)
        return self._go_on()

    def hear(self, sample: Sample) -> int | None:
        """Look on with one more sample."""
        self._waiting[sample.index] = sample
        return self._go_on()

    def ahead(self, ended: int) -> int:
        """Return as many as have ended: what is thrown away at the end is never more than what was needed."""
        return max(self.least_ahead, ended)

    def _go_on(self) -> int | None:
        """Look at what has come, up to the first question without an answer; one that ended in an error is no pair."""
        while self.pairs.decision is Decision.open and (sample := self._waiting.pop(self.asked, None)) is not None:
            if not sample.failed:
                self.pairs.add(sample.verdict is Verdict.correct, self.solved[self.asked])
            self.asked += 1
        return None if self.pairs.decision is Decision.open else self.asked

    # ------------------------------------------------------------------------------------------------- what is said

    @property
    def news(self) -> dict[str, str]:
        """What the progress bar shows of it."""
        it = self.pairs
        shown = f"{points(it.difference)} points [{points(it.low)}, {points(it.high)}], {it.decision}"
        return {"after": f"{self.asked} questions: {shown}"}

    @property
    def metrics(self) -> dict[str, float]:
        """What the job reports of it; the difference is this job's accuracy minus the baseline's."""
        it = self.pairs
        return {
            "questions_asked": self.asked,
            "questions_left": len(self.solved) - self.asked,
            "early_stop_wins": it.wins,
            "early_stop_losses": it.losses,
            "early_stop_p": it.p,
            "early_stop_difference_points": 100 * it.difference,
            "early_stop_difference_points_low": 100 * it.low,
            "early_stop_difference_points_high": 100 * it.high,
        }

    @property
    def facts(self) -> dict[str, str]:
        """The baseline, and what was decided."""
        verdict = f"{self.pairs.decision} after {self.asked:,} of {len(self.solved):,} questions"
        return {FACT: " · ".join(dict.fromkeys((self.words, self.job.job_id))), "early_stop_verdict": verdict}

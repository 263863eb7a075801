"""task.match: one agent gets as many samples of each question as the tokens of another job buy,
training included.

It is the fair opponent of a team: what does a single agent make of the same tokens, on the same
questions?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runner.config.root import RunnerConfig
from runner.datasets.items import Item
from runner.options.agents.keys import OF_TEAM, AgentsConfig
from runner.options.agents.tally import Cost
from runner.records.jobs import Job, read_samples
from runner.tasks import named_job
from runner.tasks.base import own_config
from runner_compare import OF_CALLS

KEY = "task.match"
GROUPS = (
    *named_job.MODEL_GROUPS,
    "generation",
    named_job.SEED,
    *(f"task.{name}" for name in OF_TEAM if name != "match"),
)


def team_config(config: RunnerConfig, named: str) -> RunnerConfig:
    """Return the config of the team that overrides name: the job's own, but for the keys of the one
    agent."""
    task = own_config(config, AgentsConfig)
    plain = AgentsConfig()
    team = replace(task, match=None, mode=plain.mode, decision_method=plain.decision_method)
    return named_job.overridden(replace(config, task=team), KEY, named, GROUPS)


def team_overrides(task: AgentsConfig) -> list[str]:
    """Return the overrides that make the team's job of the one agent's; none if it is named by its
    id."""
    overrides, plain = named_job.overrides_of(task.match, task), AgentsConfig()
    own = ["task.match=null", f"task.mode={plain.mode}", f"task.decision_method={plain.decision_method}"]
    given = {line.partition("=")[0] for line in overrides}
    return overrides and [*(line for line in own if line.partition("=")[0] not in given), *overrides]


@dataclass(frozen=True)
class Budgets:
    """The tokens that each question may take: what the other job took for it, and its share of that
    job's training."""

    job: Job
    named: str
    by_question: dict[str, int]
    training: float  # tokens a question

    @classmethod
    def read(cls, job: Job, named: str, items: Sequence[Item]) -> Budgets:
        """Read the finished job, after waiting for the process that runs it; ConfigError says what
        to run."""
        record = named_job.finished(job, KEY, named)
        samples = read_samples(job.samples_path).values()
        known = {
            sample.question: sample.prompt_tokens + sum(answer.tokens for answer in sample.answers)
            for sample in samples
        }
        lacking = next((item for item in items if item.question not in known), None)
        if lacking is not None:
            raise named_job.not_asked(KEY, named, job, lacking.number)
        trained = sum(record.result.metrics.get(f"train_{key}", 0.0) for key in OF_CALLS)
        return cls(
            job, named, {str(question): tokens for question, tokens in known.items()}, trained / len(known)
        )

    def of(self, item: Item) -> float:
        """Return the tokens that a question may take."""
        return self.by_question[item.question] + self.training

    def whole(self, items: Sequence[Item]) -> float:
        """Return the tokens that all questions may take."""
        return sum(map(self.of, items))

    def words_of(self, items: Sequence[Item], total: Cost) -> str:
        """Say which job was matched, and how nearly."""
        budget, used = self.whole(items), total.prompt_tokens + total.new_tokens
        named = " · ".join(dict.fromkeys((self.named, self.job.job_id)))
        training = f", {self.training * len(items):,.0f} of them for training" if self.training else ""
        return f"{named}: {budget:,.0f} tokens{training}; used {used:,.0f}, {used / budget:.1%}"


def preview_match(named: str, job: Job) -> str:
    """Say for a plan whose tokens the samples will use."""
    return f"match: as many samples as the tokens of {named} ({job.job_id}) buy; that job: {named_job.state(job)}"

"""task=recall: hide something in long texts, ask for it at their end, and check the answers
exactly."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from runner.render.notes import render_notes
from runner.tasks import (
    Context,
    Inputs,
    Job,
    OrderOfRepeat,
    Policy,
    ResolvedJob,
    RunnerConfig,
    Uses,
    collect,
    kind_of,
    look_at_prompts,
    own_config,
    positions,
    prompts_shown,
    score_without_left_out,
)
from runner.tasks.recall.fillers import read_filler, units_sha256
from runner.tasks.recall.judging import Judge, Placed
from runner.tasks.recall.keys import RecallConfig
from runner.tasks.recall.ruler_score import add_ruler_scores
from runner.tasks.recall.writing import prompt_of, written
from runner_base import Result, Sample, short_name
from runner_compare import RecallCard
from runner_engine import Capability, Engine, EngineReport, Request, require

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True
log = logging.getLogger(__name__)

# Jobs that ask further, longer questions reuse the answers to the shorter ones.
IGNORED_FOR_REUSE = frozenset({"task.lengths", "task.margin"})


@dataclass
class Haystack(Inputs):
    """The keys of the job, and the units of its filler."""

    task: RecallConfig
    units: list[str]


def prepare(config: RunnerConfig) -> Haystack:
    """Read and hash the filler; what is hidden in it follows from the keys."""
    task = own_config(config, RecallConfig)
    kind = kind_of(config.model)
    if not kind.counts_tokens(config):
        need = "task=recall counts in the model's own tokens: it"
        require(kind.capabilities(config), need, {Capability.tokenizer})
    units = read_filler(task.filler, max(task.tokens) * task.haystacks)
    hashes = {"filler": units_sha256(units)}
    return Haystack(hashes, task, units, ignored_for_reuse=IGNORED_FOR_REUSE, count=task.questions)


def check_lengths(inputs: Haystack, resolved: ResolvedJob) -> list[str]:
    """Reject lengths that the model has no positions for."""
    positions.check_longest(resolved, "task.lengths", max(inputs.task.tokens))
    return []


def run(inputs: Haystack, context: Context) -> Result:
    """Write the texts, ask what is not on disk yet, judge each answer, and add up."""
    task = inputs.task
    check_lengths(inputs, context.resolved)
    placed = written(task, inputs.units, context.resolved)
    requests = requests_for(task, placed)
    if task.show_prompt:
        log.info("%s", prompts_shown(context.resolved, requests[: task.show_prompt]))
    policies: list[Policy] = [PromptForm(task, requests[0]), OrderOfRepeat(task.repeat), Recall(context)]
    done = collect(requests, context, Judge(placed), policies)
    metrics = score_without_left_out(done.samples) | recall_of(done.samples) | done.metrics
    result = Result(metrics, facts=done.facts, notes=done.notes, problems=done.problems, tables=done.tables)
    card = RecallCard.of(done.samples, task.margin, title_of(context.config))
    card.add_to(result)
    add_ruler_scores(result, done.samples, placed)
    card.keep(context.recorder.folder, task.pictures)
    result.notes += render_notes(positions.needless_scaling_of(context.resolved, done.samples))
    return result


def title_of(config: RunnerConfig) -> str:
    """Return what the pictures are of."""
    return f"{short_name(config.model.name)}, rope={config.rope.name}"


def recall_of(samples: list[Sample]) -> dict[str, float]:
    """Return the share of right answers: of all, and of each length."""
    by_length: dict[int, list[float]] = {}
    for sample in samples:
        by_length.setdefault(sample.recall_length or 0, []).append(sample.right_share())
    of_all = fmean(share for shares in by_length.values() for share in shares)
    of_lengths = {f"recall_accuracy/length_{length}": fmean(shares) for length, shares in by_length.items()}
    return {"recall_accuracy": of_all, **of_lengths}


def deliver(inputs: Haystack, resolved: ResolvedJob, job: Job, result: Result) -> None:  # noqa: ARG001
    """Show the prompts of a recorded job if requested; draw its pictures if it has none."""
    if inputs.task.show_prompt:
        log.info("%s", shown(inputs, resolved))
    if inputs.task.pictures:
        RecallCard.draw_missing(job.folder)


def preview(inputs: Haystack, resolved: ResolvedJob) -> str:
    """Show the first prompts if requested."""
    return shown(inputs, resolved) if inputs.task.show_prompt else ""


def shown(inputs: Haystack, resolved: ResolvedJob) -> str:
    """Return the first prompts as the model sees them; only the tokenizer is loaded."""
    task = inputs.task
    requests = requests_for(task, written(task, inputs.units, resolved))
    return prompts_shown(resolved, requests[: task.show_prompt])


def requests_for(task: RecallConfig, placed: Mapping[int, Placed]) -> list[Request]:
    """Return the request for each case; in plain text an answer ends with its line, if it is not
    worked out."""
    return [
        Request(
            number,
            prompt_of(task, case.asked),
            () if task.asks_in_chat or case.asked.is_worked_out else ("\n",),
            random_id=f"{number}, repeat {task.repeat}" if task.repeat else None,
        )
        for number, case in placed.items()
    ]


class PromptForm(Policy):
    """Facts about the prompts, as the model sees them."""

    def __init__(self, task: RecallConfig, first: Request) -> None:
        self.task, self.first = task, first

    def loaded(self, engine: Engine, report: EngineReport) -> None:
        """Add them to the report."""
        look_at_prompts([self.task.prompt.value], self.first, self.first, engine, report)


class Recall(Policy):
    """The share of right answers so far, which the progress bar shows."""

    def __init__(self, context: Context) -> None:
        self._shares = [sample.right_share() for sample in context.recorder.done.values()]

    def answered(self, sample: Sample) -> None:
        """Count an answer."""
        self._shares.append(sample.right_share())

    def news(self) -> dict[str, str]:
        """Return the share of the right answers."""
        return {"recall": f"{fmean(self._shares):.1%}"} if self._shares else {}

"""task=recall: hides needles in long texts, asks for them at the end, and checks the answers
exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from runner.render.notes import render_notes
from runner.tasks import (
    Job,
    Policy,
    PromptFacts,
    RepeatOrder,
    ResolvedJob,
    RunnerConfig,
    RunningAccuracy,
    TaskContext,
    TaskInputs,
    Uses,
    build_random_id,
    collect_answers,
    context_length,
    get_model_kind,
    render_prompts,
    score_included_samples,
    typed_task_config,
)
from runner.tasks.recall.fillers import hash_units, read_filler_units
from runner.tasks.recall.judging import Judge, PlacedCase
from runner.tasks.recall.keys import RecallConfig
from runner.tasks.recall.placement import build_case_prompt, render_cases_with_fitting_filler
from runner.tasks.recall.ruler_score import add_ruler_scores
from runner_base import Result, Sample, short_model_name
from runner_compare import RecallCard
from runner_engine import Capability, Request, require_capabilities

VERSION = 2  # 2: an answer that was cut off in a loop is judged as if it were complete
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True

# Jobs that ask further, longer questions reuse the answers to the shorter ones.
IGNORED_FOR_REUSE = frozenset({"task.lengths", "task.margin"})


@dataclass
class RecallInputs(TaskInputs):
    """Inputs of task=recall: the task's config, and the filler text split into units."""

    task: RecallConfig
    units: list[str]


def prepare(config: RunnerConfig) -> RecallInputs:
    """Read and hash the filler text. The config determines the needles, so only the filler is
    hashed.
    """
    task = typed_task_config(config, RecallConfig)
    kind = get_model_kind(config.model)
    if not kind.can_count_tokens(config):
        need = "task=recall measures lengths in the model's tokens. It"
        require_capabilities(kind.capabilities(config), need, {Capability.tokenizer})
    units = read_filler_units(task.filler, max(task.tokens) * task.num_haystacks)
    hashes = {"filler": hash_units(units)}
    return RecallInputs(
        hashes, task, units, ignored_for_reuse=IGNORED_FOR_REUSE, count=task.expected_completions
    )


def check_lengths(inputs: RecallInputs, resolved: ResolvedJob) -> list[str]:
    """Raise ConfigError for text lengths beyond the model's context length."""
    context_length.check_context_length(resolved, "task.lengths", max(inputs.task.tokens))
    return []


def run(inputs: RecallInputs, context: TaskContext) -> Result:
    """Create the texts, generate missing answers, judge them, and compute the metrics."""
    task = inputs.task
    check_lengths(inputs, context.resolved)
    placed = render_cases_with_fitting_filler(task, inputs.units, context.resolved)
    requests = build_requests(task, placed)
    policies: list[Policy] = [
        PromptFacts(task.prompt.value, requests[0]),
        RepeatOrder(task.repeat_index),
        RunningAccuracy(context, "recall_accuracy", "correct"),
    ]
    done = collect_answers(requests, context, Judge(placed), policies)
    metrics = score_included_samples(done.samples) | compute_recall_metrics(done.samples) | done.metrics
    result = Result(metrics, facts=done.facts, notes=done.notes, problems=done.problems, tables=done.tables)
    card = RecallCard.from_samples(done.samples, task.margin, picture_title(context.config))
    card.add_to_result(result)
    add_ruler_scores(result, done.samples, placed)
    card.save(context.recorder.folder, task.pictures)
    result.notes += render_notes(context_length.build_rope_notes_for_samples(context.resolved, done.samples))
    return result


def picture_title(config: RunnerConfig) -> str:
    return f"{short_model_name(config.model.name)}, rope={config.rope.name}"


def compute_recall_metrics(samples: list[Sample]) -> dict[str, float]:
    by_length: dict[int, list[float]] = {}
    for sample in samples:
        by_length.setdefault(sample.recall_length or 0, []).append(sample.accuracy())
    of_all = fmean(share for shares in by_length.values() for share in shares)
    of_lengths = {f"recall_accuracy/length_{length}": fmean(shares) for length, shares in by_length.items()}
    return {"recall_accuracy": of_all, **of_lengths}


def deliver(inputs: RecallInputs, resolved: ResolvedJob, job: Job, result: Result) -> None:  # noqa: ARG001
    """Draw the missing plots of a finished job."""
    if inputs.task.pictures:
        RecallCard.draw_missing(job.folder)


def render_shown_prompts(inputs: RecallInputs, resolved: ResolvedJob) -> str:
    task = inputs.task
    requests = build_requests(task, render_cases_with_fitting_filler(task, inputs.units, resolved))
    return render_prompts(resolved, requests[: task.show_prompt])


def build_requests(task: RecallConfig, placed_cases: Mapping[int, PlacedCase]) -> list[Request]:
    """Return one request per case. In plain text, a line break ends a single-line answer."""
    return [
        Request(
            number,
            build_case_prompt(task, case.asked),
            () if task.uses_chat_template or case.asked.has_multiline_answer else ("\n",),
            random_id=build_random_id(number, task.repeat_index),
        )
        for number, case in placed_cases.items()
    ]

"""task=tools: offer functions with each question, and match the calls in the answers with those
that are right."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from runner.datasets.chosen import cluster_hashes
from runner.render.notes import note_text, render_notes
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
from runner.tasks.tools.cases import BY_FUNCTION, MADE, Case, cases_sha256, chosen, made_cases
from runner.tasks.tools.distractors import distractors
from runner.tasks.tools.fitting import further_functions
from runner.tasks.tools.judging import Judge, Placed
from runner.tasks.tools.keys import Offer, ToolsConfig
from runner.tasks.tools.offering import WrittenIn, check_template, prompt_of, written_in
from runner_base import ConfigError, Result, Sample
from runner_compare import tool_card
from runner_engine import Capability, Engine, EngineReport, Request, require

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True
log = logging.getLogger(__name__)

# Jobs that ask further questions, at further lengths, or read calls in another form reuse the
# answers that there are.
IGNORED_FOR_REUSE = frozenset(
    {"task.fill", "task.cases", "task.categories", "task.form", "cases", "clusters"}
)


@dataclass
class Offered(Inputs):
    """The keys of the job, and its questions."""

    task: ToolsConfig
    cases: list[Case]


def prepare(config: RunnerConfig) -> Offered:
    """Read, choose and hash the questions."""
    task = own_config(config, ToolsConfig)
    kind = kind_of(config.model)
    needs = {Capability.chat} | ({Capability.tools} if task.offer is Offer.template else set())
    other = (
        "task=tools"
        if task.offer is Offer.system
        else "task=tools with task.offer=template (or use offer=system)"
    )
    require(kind.capabilities(config), other, needs)
    if task.tokens and not kind.counts_tokens(config):
        need = "task.fill counts in the model's own tokens: it"
        require(kind.capabilities(config), need, {Capability.tokenizer})
    cases = chosen(_read(task), task.categories, task.cases, task.cases_seed)
    if not cases:
        raise ConfigError(
            f"task.data={task.data} has no such question",
            key="task.categories",
            value=",".join(task.categories),
            code="empty",
        )
    count = len(cases) * max(1, len(task.tokens))
    hashes = {"cases": cases_sha256(cases)}
    if task.cluster != BY_FUNCTION:  # jobs by functions keep the ids of earlier versions
        hashes |= cluster_hashes([case.cluster(task.cluster) for case in cases])
    return Offered(hashes, task, cases, ignored_for_reuse=IGNORED_FOR_REUSE, count=count)


def _read(task: ToolsConfig) -> list[Case]:
    """Return all questions of task.data."""
    if task.data == MADE:
        return made_cases()
    from runner.tasks.tools.bfcl import read_bfcl  # only where such files are read

    return read_bfcl(Path(task.data).expanduser(), f"task.data={task.data}")


def check_lengths(inputs: Offered, resolved: ResolvedJob) -> list[str]:
    """Reject a template that takes no tools, and lengths that the model has no positions for."""
    check_template(inputs.task, resolved)
    positions.check_longest(resolved, "task.fill", max(inputs.task.tokens, default=0))
    return []


def run(inputs: Offered, context: Context) -> Result:
    """Fill the contexts, ask what is not on disk yet, judge each answer, and add up."""
    task, resolved = inputs.task, context.resolved
    check_lengths(inputs, resolved)
    form = written_in(task, resolved)
    placed = placed_by(task, inputs.cases, form, resolved)
    requests = requests_for(task, placed, form)
    if task.show_prompt:
        log.info("%s", prompts_shown(resolved, requests[: task.show_prompt]))
    policies: list[Policy] = [PromptForm(requests[0]), OrderOfRepeat(task.repeat), RightCalls(context)]
    done = collect(requests, context, Judge(placed, form.form), policies)
    metrics = score_without_left_out(done.samples) | done.metrics | offered_counts(placed)
    result = Result(metrics, facts=done.facts, notes=done.notes, problems=done.problems, tables=done.tables)
    # also where all answers are another job's, which read another form
    result.facts["calls"] = note_text(form.note)
    tool_card(result, done.samples)
    result.notes += render_notes(positions.needless_scaling_of(resolved, done.samples))
    return result


def placed_by(
    task: ToolsConfig, cases: Sequence[Case], form: WrittenIn, resolved: ResolvedJob
) -> dict[int, Placed]:
    """Return every case at every length by its number, the shortest length first; only the
    tokenizer is loaded."""
    if not task.tokens:
        return {
            number: Placed(case, 0, task.distractors, case.cluster(task.cluster))
            for number, case in enumerate(cases)
        }
    kind, answer = kind_of(resolved.config.model), resolved.config.generation.most_new_tokens

    def count(asked: Sequence[tuple[Case, int]]) -> list[int]:
        prompts = [
            prompt_of(task, case, distractors(further, task.cases_seed), form.form) for case, further in asked
        ]
        return [len(ids) for _, ids in kind.encoded(resolved, prompts)]

    places = [
        Placed(case, length, further, case.cluster(task.cluster))
        for length in task.tokens
        for further in [further_functions(cases, length, answer, count)]
        for case in cases
    ]
    return dict(enumerate(places))


def requests_for(task: ToolsConfig, placed: Mapping[int, Placed], form: WrittenIn) -> list[Request]:
    common = {
        number: distractors(number, task.cases_seed)
        for number in {place.further for place in placed.values()}
    }
    return [
        Request(
            number,
            prompt_of(task, place.case, common[place.further], form.form),
            is_raw=form.form.IS_RAW,
            random_id=f"{number}, repeat {task.repeat}" if task.repeat else None,
        )
        for number, place in placed.items()
    ]


def offered_counts(placed: Mapping[int, Placed]) -> dict[str, float]:
    """Return how many functions are offered beside those of the questions: of all, and of each
    length."""
    by_length = {place.length: place.further for place in placed.values()}
    of_lengths = {
        f"further_functions/length_{length}": float(by_length[length]) for length in by_length if length
    }
    return {"further_functions": fmean(by_length.values()), **of_lengths}


def deliver(inputs: Offered, resolved: ResolvedJob, job: Job, result: Result) -> None:  # noqa: ARG001
    """Show the prompts of a recorded job if requested."""
    if inputs.task.show_prompt:
        log.info("%s", shown(inputs, resolved))


def preview(inputs: Offered, resolved: ResolvedJob) -> str:
    """Show the first prompts if requested."""
    return shown(inputs, resolved) if inputs.task.show_prompt else ""


def shown(inputs: Offered, resolved: ResolvedJob) -> str:
    """Return the first prompts as the model sees them; only the tokenizer is loaded."""
    task, form = inputs.task, written_in(inputs.task, resolved)
    requests = requests_for(task, placed_by(task, inputs.cases, form, resolved), form)
    return prompts_shown(resolved, requests[: task.show_prompt])


class PromptForm(Policy):
    """Facts about the prompts, as the model sees them."""

    def __init__(self, first: Request) -> None:
        self.first = first

    def loaded(self, engine: Engine, report: EngineReport) -> None:
        """Add them to the report."""
        look_at_prompts(["chat"], self.first, self.first, engine, report)


class RightCalls(Policy):
    """The share of right answers so far, which the progress bar shows."""

    def __init__(self, context: Context) -> None:
        self._shares = [sample.right_share() for sample in context.recorder.done.values()]

    def answered(self, sample: Sample) -> None:
        """Count an answer."""
        self._shares.append(sample.right_share())

    def news(self) -> dict[str, str]:
        """Return the share of the right answers."""
        return {"right calls": f"{fmean(self._shares):.1%}"} if self._shares else {}

"""task=tools: offers functions with each question, and compares the calls in the answers with the
expected ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from runner.datasets.question_subsets import hash_cluster_names
from runner.render.notes import format_note, render_notes
from runner.tasks import (
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
from runner.tasks.tools.cases import (
    BY_FUNCTION,
    MADE,
    Case,
    hash_cases,
    read_installed_tool_cases,
    select_cases,
)
from runner.tasks.tools.distractors import create_distractors
from runner.tasks.tools.fitting import find_max_distractor_functions
from runner.tasks.tools.judging import Judge, PlacedCase
from runner.tasks.tools.keys import OfferMethod, ToolsConfig
from runner.tasks.tools.offering import (
    CallFormat,
    build_case_prompt,
    choose_tool_call_format,
    require_tool_support_in_template,
)
from runner_base import ConfigError, Result
from runner_compare import add_tool_call_metrics
from runner_engine import Capability, Request, require_capabilities

VERSION = 2  # 2: an answer that was cut off in a loop is judged as if it were complete
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True

# Jobs that ask further questions, at further lengths, or read calls in another form reuse the
# answers that there are.
IGNORED_FOR_REUSE = frozenset(
    {"task.context_lengths", "task.cases", "task.categories", "task.tool_call_format", "cases", "clusters"}
)


@dataclass
class ToolsInputs(TaskInputs):
    """Inputs of task=tools: the task's config, and the questions that it selects."""

    task: ToolsConfig
    cases: list[Case]


def prepare(config: RunnerConfig) -> ToolsInputs:
    """Read, select and hash the questions."""
    task = typed_task_config(config, ToolsConfig)
    kind = get_model_kind(config.model)
    needs = {Capability.chat} | ({Capability.tools} if task.tool_placement is OfferMethod.template else set())
    other = (
        "task=tools"
        if task.tool_placement is OfferMethod.system
        else "task=tools with task.tool_placement=template (or use tool_placement=system)"
    )
    require_capabilities(kind.capabilities(config), other, needs)
    if task.tokens and not kind.can_count_tokens(config):
        need = "task.context_lengths measures lengths in the model's tokens. It"
        require_capabilities(kind.capabilities(config), need, {Capability.tokenizer})
    cases = select_cases(_read_configured_tool_cases(task), task.categories, task.cases, task.cases_seed)
    if not cases:
        raise ConfigError(
            f"task.data={task.data} has no such question",
            key="task.categories",
            value=",".join(task.categories),
            code="empty",
        )
    count = len(cases) * max(1, len(task.tokens))
    hashes = {"cases": hash_cases(cases)}
    if task.cluster != BY_FUNCTION:  # jobs by functions keep the ids of earlier versions
        hashes |= hash_cluster_names([case.cluster(task.cluster) for case in cases])
    return ToolsInputs(hashes, task, cases, ignored_for_reuse=IGNORED_FOR_REUSE, count=count)


def _read_configured_tool_cases(task: ToolsConfig) -> list[Case]:
    if task.data == MADE:
        return read_installed_tool_cases()
    from runner.tasks.tools.bfcl import read_bfcl_cases  # only where such files are read

    return read_bfcl_cases(Path(task.data).expanduser(), f"task.data={task.data}")


def check_lengths(inputs: ToolsInputs, resolved: ResolvedJob) -> list[str]:
    """Raise ConfigError if the chat template does not support tools, or a context length exceeds the
    model's limit.
    """
    require_tool_support_in_template(inputs.task, resolved)
    context_length.check_context_length(resolved, "task.context_lengths", max(inputs.task.tokens, default=0))
    return []


def run(inputs: ToolsInputs, context: TaskContext) -> Result:
    """Generate the missing answers with functions in each prompt, judge the tool calls, and compute
    metrics.
    """
    task, resolved = inputs.task, context.resolved
    check_lengths(inputs, resolved)
    form = choose_tool_call_format(task, resolved)
    placed = assign_cases_to_context_lengths(task, inputs.cases, form, resolved)
    requests = build_requests(task, placed, form)
    policies: list[Policy] = [
        PromptFacts("chat", requests[0]),
        RepeatOrder(task.repeat_index),
        RunningAccuracy(context, label="right calls"),
    ]
    done = collect_answers(requests, context, Judge(placed, form.form), policies)
    metrics = score_included_samples(done.samples) | done.metrics | compute_distractor_count_metrics(placed)
    result = Result(metrics, facts=done.facts, notes=done.notes, problems=done.problems, tables=done.tables)
    # also where all answers are another job's, which read another form
    result.facts["calls"] = format_note(form.note)
    add_tool_call_metrics(result, done.samples)
    result.notes += render_notes(context_length.build_rope_notes_for_samples(resolved, done.samples))
    return result


def assign_cases_to_context_lengths(
    task: ToolsConfig, cases: Sequence[Case], call_format: CallFormat, resolved: ResolvedJob
) -> dict[int, PlacedCase]:
    """Return a case for each pair of test case and context length, numbered. Loads only the tokenizer."""
    if not task.tokens:
        return {
            number: PlacedCase(case, 0, task.distractors, case.cluster(task.cluster))
            for number, case in enumerate(cases)
        }
    kind, answer = get_model_kind(resolved.config.model), resolved.config.generation.max_total_new_tokens

    def count_tokens(cases_with_extra_counts: Sequence[tuple[Case, int]]) -> list[int]:
        prompts = [
            build_case_prompt(task, case, create_distractors(further, task.cases_seed), call_format.form)
            for case, further in cases_with_extra_counts
        ]
        return [len(ids) for _, ids in kind.encode_prompts(resolved, prompts)]

    places = [
        PlacedCase(case, length, further, case.cluster(task.cluster))
        for length in task.tokens
        for further in [find_max_distractor_functions(cases, length, answer, count_tokens)]
        for case in cases
    ]
    return dict(enumerate(places))


def build_requests(
    task: ToolsConfig, placed_cases: Mapping[int, PlacedCase], call_format: CallFormat
) -> list[Request]:
    common = {
        number: create_distractors(number, task.cases_seed)
        for number in {place.further for place in placed_cases.values()}
    }
    return [
        Request(
            number,
            build_case_prompt(task, place.case, common[place.further], call_format.form),
            is_raw=call_format.form.IS_RAW,
            random_id=build_random_id(number, task.repeat_index),
        )
        for number, place in placed_cases.items()
    ]


def compute_distractor_count_metrics(placed_cases: Mapping[int, PlacedCase]) -> dict[str, float]:
    by_length = {place.length: place.further for place in placed_cases.values()}
    of_lengths = {
        f"further_functions/length_{length}": float(by_length[length]) for length in by_length if length
    }
    return {"further_functions": fmean(by_length.values()), **of_lengths}


def render_shown_prompts(inputs: ToolsInputs, resolved: ResolvedJob) -> str:
    task, form = inputs.task, choose_tool_call_format(inputs.task, resolved)
    requests = build_requests(task, assign_cases_to_context_lengths(task, inputs.cases, form, resolved), form)
    return render_prompts(resolved, requests[: task.show_prompt])

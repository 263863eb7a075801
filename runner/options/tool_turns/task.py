"""task=tool_turns: a model calls tools of a scripted environment over several turns, and the final state counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runner.datasets.question_subsets import hash_cluster_names
from runner.datasets.questions import reject_large_embedded_count
from runner.options.tool_turns.episode import ChatForm, Episode
from runner.options.tool_turns.generated_scenarios import generate_scenarios
from runner.options.tool_turns.judging import ScenarioJudge
from runner.options.tool_turns.keys import ClusterKey, ToolTurnsConfig
from runner.options.tool_turns.render.titles import TURNS_BY_LEVEL, format_scenario_summary
from runner.options.tool_turns.scenario_files import read_scenarios
from runner.options.tool_turns.scenarios import Scenario, hash_scenarios
from runner.options.tool_turns.scores import build_level_rows, compute_turn_metrics
from runner.options.tool_turns.session import ScenarioEngine
from runner.render.notes import format_note, render_notes
from runner.tasks import (
    ComparedInputs,
    Policy,
    PromptFacts,
    RepeatOrder,
    ResolvedJob,
    RunnerConfig,
    RunningAccuracy,
    TaskContext,
    Uses,
    build_random_id,
    collect_answers,
    context_length,
    create_early_stop_policy,
    describe_dataset,
    get_model_kind,
    make_early_stopping_baseline_notes,
    render_prompts,
    score_included_samples,
    typed_task_config,
)
from runner.tasks import has_configured_baseline as has_configured_baseline  # for the plan of a grid
from runner.tasks.tools.keys import OfferMethod
from runner.tasks.tools.offering import choose_tool_call_format, require_tool_support_in_template
from runner_base import ConfigError, Result
from runner_compare import add_tool_call_metrics
from runner_engine import Capability, Request, require_capabilities, tool_calls

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True

# Jobs that play more or fewer scenarios reuse the answers.
IGNORED_FOR_REUSE = frozenset({"data", "clusters", "task.limit", "task.levels"})
# Jobs that are compared while they run offer the tools in the same way.
ALIKE = ("system", "max_turns", "tool_call_format", "tool_placement")


@dataclass
class ToolTurnsInputs(ComparedInputs):
    """Inputs of task=tool_turns: the task's config and the scenarios."""

    task: ToolTurnsConfig
    scenarios: list[Scenario]


def prepare(config: RunnerConfig) -> ToolTurnsInputs:
    """Read or generate the scenarios, and hash them."""
    task = typed_task_config(config, ToolTurnsConfig)
    is_template = task.tool_placement is OfferMethod.template
    subject = (
        "task=tool_turns with task.tool_placement=template (or use tool_placement=system)"
        if is_template
        else "task=tool_turns"
    )
    needs = {Capability.chat} | ({Capability.tools} if is_template else set())
    require_capabilities(get_model_kind(config.model).capabilities(config), subject, needs)
    scenarios = _load_scenarios(task)
    if not scenarios:
        raise ConfigError(
            "the file has no scenario. Use a file with at least one record",
            key="task.data",
            value=task.data,
            code="empty",
        )
    sha256 = hash_scenarios(scenarios)
    hashes = {"data": sha256}
    if task.cluster is ClusterKey.scenario:
        hashes |= hash_cluster_names([scenario.id for scenario in scenarios])
    inputs = ToolTurnsInputs(
        hashes,
        task,
        scenarios,
        ignored_for_reuse=IGNORED_FOR_REUSE,
        count=len(scenarios),
        data=describe_dataset(task.data, "", sha256),
    )
    inputs.find_baseline_and_extend_hashes(config, VERSION)
    return inputs


def _load_scenarios(task: ToolTurnsConfig) -> list[Scenario]:
    if not task.is_generated:
        return read_scenarios(task.data, task.limit)
    assert task.limit is not None
    reject_large_embedded_count(task.data, "task.limit", task.limit, task.limit)
    return generate_scenarios(task.limit, task.levels, task.data_seed)


def check_lengths(inputs: ToolTurnsInputs, resolved: ResolvedJob) -> list[str]:
    """Raise ConfigError if the chat template does not support tools."""
    require_tool_support_in_template(inputs.task, resolved)
    return []


def run(inputs: ToolTurnsInputs, context: TaskContext) -> Result:
    """Play the missing scenarios, judge all of them and compute metrics."""
    task, resolved = inputs.task, context.resolved
    check_lengths(inputs, resolved)
    call_format = choose_tool_call_format(task, resolved)
    chat_form = _make_chat_form(task, call_format.form)
    requests = build_requests(task, inputs.scenarios, chat_form)
    scenarios = dict(enumerate(inputs.scenarios))
    judge = ScenarioJudge(scenarios, chat_form, task.cluster)
    questions = {number: (scenario.question, scenario.gold) for number, scenario in scenarios.items()}
    early_stop = create_early_stop_policy(inputs, context, VERSION, questions, ALIKE)
    policies: list[Policy] = [
        PromptFacts("chat", requests[0]),
        RepeatOrder(task.repeat_index),
        RunningAccuracy(context, label="goals reached"),
        *filter(None, [early_stop]),
    ]
    played = replace(context, engine=ScenarioEngine(context.engine, scenarios, chat_form))
    done = collect_answers(requests, played, judge, policies, unit="scenarios")
    episodes = [judge.replay(sample) for sample in done.samples]
    metrics = score_included_samples(done.samples) | compute_turn_metrics(episodes) | done.metrics
    result = Result(metrics, facts=done.facts, notes=done.notes, problems=done.problems, tables=done.tables)
    result.facts["calls"] = format_note(call_format.note)
    add_tool_call_metrics(result, done.samples)
    result.tables[TURNS_BY_LEVEL] = build_level_rows(episodes)
    result.notes += render_notes(context_length.build_rope_notes_for_samples(resolved, done.samples))
    if early_stop is not None:
        early_stop.add_to_result(result)
    return result


def _make_chat_form(task: ToolTurnsConfig, call_format: tool_calls.ToolCallFormat) -> ChatForm:
    return ChatForm(task.tool_placement, call_format, task.max_turns, task.system)


def build_requests(
    task: ToolTurnsConfig, scenarios: Sequence[Scenario], chat_form: ChatForm
) -> list[Request]:
    """Return a request for each scenario, with the first prompt of the scenario."""
    return [
        Request(
            number,
            Episode(scenario, chat_form).build_prompt(),
            is_raw=chat_form.call_format.IS_RAW,
            random_id=build_random_id(number, task.repeat_index),
        )
        for number, scenario in enumerate(scenarios)
    ]


def preview(inputs: ToolTurnsInputs, resolved: ResolvedJob) -> str:
    """Return a summary of the scenarios and the baseline for plan=true."""
    scenarios = inputs.scenarios
    levels = {scenario.level for scenario in scenarios}
    environments = {scenario.environment_name for scenario in scenarios}
    summary = format_scenario_summary(len(scenarios), len(levels), len(environments), inputs.task.max_turns)
    return "\n".join([summary, *render_notes(make_early_stopping_baseline_notes(resolved.config, inputs))])


def render_shown_prompts(inputs: ToolTurnsInputs, resolved: ResolvedJob) -> str:
    task = inputs.task
    chat_form = _make_chat_form(task, choose_tool_call_format(task, resolved).form)
    return render_prompts(resolved, build_requests(task, inputs.scenarios[: task.show_prompt], chat_form))

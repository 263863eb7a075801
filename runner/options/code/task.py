"""task=code: asks for Python functions, and runs them with tests in a sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.options.code.extraction import build_chat_message, build_completion_prompt, list_stop_strings
from runner.options.code.judging import CodeJudge, count_parallel_programs, create_program_limits
from runner.options.code.keys import CodeConfig
from runner.options.code.problems import CodeProblem, hash_problems, read_code_problems
from runner.options.code.render.notes import NOTES
from runner.options.code.render.titles import BY_OUTCOME, format_problem_summary
from runner.options.code.scores import build_program_outcome_rows, compute_pass_at_k, count_outcomes
from runner.render.notes import render_notes
from runner.sandbox.render import describe_sandbox_protections
from runner.sandbox.sandbox import Sandbox
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
    build_chat_prompt,
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
from runner_base import ConfigError, Result
from runner_base.notes import note
from runner_base.render.notes import render_note
from runner_compare import format_cut_off_message
from runner_compare.statistics import LIMIT
from runner_engine import Capability, Request, require_capabilities

VERSION = 2  # 2: an answer that was cut off in a loop is judged as if it were complete
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True
# Jobs that run the programs in another way, or ask more or fewer problems, reuse the answers.
IGNORED_FOR_REUSE = frozenset({"data", "task.limit", "task.timeout_s", "task.memory_mib"})
# Jobs that are compared while they run send the same prompts, and run programs with the same limits.
ALIKE = ("prompt", "instruction", "system", "timeout_s", "memory_mib")


@dataclass
class CodeInputs(ComparedInputs):
    """Inputs of task=code: the task's config and the problems."""

    task: CodeConfig
    problems: list[CodeProblem]


def prepare(config: RunnerConfig) -> CodeInputs:
    """Read and hash the problems with their tests."""
    task = typed_task_config(config, CodeConfig)
    if task.uses_chat_template:
        capabilities = get_model_kind(config.model).capabilities(config)
        require_capabilities(capabilities, "task=code", {Capability.chat})
    problems = read_code_problems(task.data, task.subset, task.split, task.limit)
    if not problems:
        raise ConfigError(
            "the file contains no problem. Use a file with at least one problem",
            key="task.data",
            value=task.data,
            code="empty",
        )
    sha256 = hash_problems(problems)
    inputs = CodeInputs(
        {"data": sha256},
        task,
        problems,
        ignored_for_reuse=IGNORED_FOR_REUSE,
        count=len(problems),
        data=describe_dataset(task.data, task.split, sha256),
    )
    inputs.find_baseline_and_extend_hashes(config, VERSION)
    return inputs


def run(inputs: CodeInputs, context: TaskContext) -> Result:
    """Generate the missing answers, run their programs and compute metrics."""
    task, resolved = inputs.task, context.resolved
    requests = build_job_requests(inputs)
    sandbox = Sandbox(create_program_limits(task.timeout_s, task.memory_mib))
    # checked before the model is loaded: without a sandbox, no program is run
    protections, missing = describe_sandbox_protections(sandbox.detect_protections(), sandbox.limits)
    questions = {number: (problem.prompt, problem.solution) for number, problem in enumerate(inputs.problems)}
    early_stop = create_early_stop_policy(inputs, context, VERSION, questions, ALIKE)
    policies: list[Policy] = [
        PromptFacts(task.prompt.value, requests[0]),
        RepeatOrder(task.repeat_index),
        RunningAccuracy(context),
        *filter(None, [early_stop]),
    ]
    with CodeJudge(dict(enumerate(inputs.problems)), task.samples, sandbox) as judge:
        done = collect_answers(requests, context, judge, policies, unit="problems")
    num_solved = [sample.count_correct_answers[0] for sample in done.samples]
    pass_at_k, rows = compute_pass_at_k(num_solved, task.samples)
    scores = score_included_samples(done.samples)
    result = Result(
        scores | count_outcomes(done.samples) | pass_at_k | done.metrics,
        rows,
        done.facts | {"sandbox": protections},
        problems=done.problems,
        tables=done.tables | {BY_OUTCOME: build_program_outcome_rows(done.samples)},
    )
    limit = {LIMIT: str(context.config.generation.max_new_tokens)}
    notes = [*done.note_values, *filter(None, [format_cut_off_message(scores, limit)])]
    notes += context_length.build_rope_notes_for_samples(resolved, done.samples)
    result.notes = render_notes(notes)
    if missing:
        result.notes.append(render_note(note("programs_not_sandboxed", "warning", missing=missing), NOTES))
    if early_stop is not None:
        early_stop.add_to_result(result)
    return result


def build_job_requests(inputs: CodeInputs) -> list[Request]:
    return build_requests(inputs.task, inputs.problems)


def build_requests(task: CodeConfig, problems: Sequence[CodeProblem]) -> list[Request]:
    return [build_code_problem_request(task, number, problem) for number, problem in enumerate(problems)]


def build_code_problem_request(task: CodeConfig, number: int, problem: CodeProblem) -> Request:
    random_id = build_random_id(number, task.repeat_index)
    if not task.uses_chat_template:
        prompt, stops = build_completion_prompt(problem), list_stop_strings(problem)
        return Request(number, prompt, stops, n=task.samples, random_id=random_id)
    messages = build_chat_prompt(build_chat_message(problem, task.instruction), task.system)
    return Request(number, messages, n=task.samples, random_id=random_id)


def preview(inputs: CodeInputs, resolved: ResolvedJob) -> str:
    """Return a summary of the problems and the baseline for plan=true."""
    task = inputs.task
    summary = format_problem_summary(
        len(inputs.problems), task.timeout_s, task.memory_mib, count_parallel_programs()
    )
    return "\n".join([summary, *render_notes(make_early_stopping_baseline_notes(resolved.config, inputs))])


def render_shown_prompts(inputs: CodeInputs, resolved: ResolvedJob) -> str:
    return render_prompts(resolved, build_requests(inputs.task, inputs.problems[: inputs.task.show_prompt]))

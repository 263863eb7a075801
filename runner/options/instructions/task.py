"""task=instructions: sends prompts with verifiable instructions, and checks which instructions the answers
follow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from runner.datasets.question_subsets import hash_cluster_names
from runner.datasets.questions import reject_large_embedded_count
from runner.options.instructions.data_files import iter_ifeval_prompts
from runner.options.instructions.generated_prompts import generate_prompts
from runner.options.instructions.judging import InstructionJudge
from runner.options.instructions.keys import ClusterKey, InstructionsConfig
from runner.options.instructions.kinds import KINDS, InstructionPrompt
from runner.options.instructions.languages import PACKAGE, require_langdetect
from runner.options.instructions.render.titles import BY_KIND, BY_LEVEL, format_prompt_summary
from runner.options.instructions.scores import (
    CheckedPrompt,
    build_level_rows,
    compute_accuracy_by_instruction_kind,
    compute_instruction_metrics,
)
from runner.render.notes import render_notes
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
from runner_base import ConfigError, Result, format_unknown_choice_message
from runner_compare import format_cut_off_message
from runner_compare.statistics import LIMIT
from runner_engine import Capability, Request, require_capabilities

VERSION = 2  # 2: an answer that was cut off in a loop is judged as if it were complete
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True

# Jobs that send more or fewer prompts, or judge by another version of langdetect, reuse the answers.
IGNORED_FOR_REUSE = frozenset({"data", "clusters", PACKAGE, "task.limit", "task.exclude_kinds"})
ALIKE = ("system",)  # of jobs that are compared while they run


@dataclass
class InstructionsInputs(ComparedInputs):
    """Inputs of task=instructions: the task's config, and the prompts that it selects."""

    task: InstructionsConfig
    prompts: list[InstructionPrompt]
    num_excluded: int  # prompts with kinds of task.exclude_kinds


def prepare(config: RunnerConfig) -> InstructionsInputs:
    """Read or generate the prompts, and hash them."""
    task = typed_task_config(config, InstructionsConfig)
    require_capabilities(
        get_model_kind(config.model).capabilities(config), "task=instructions", {Capability.chat}
    )
    for kind in task.exclude_kinds:
        if kind not in KINDS:
            raise ConfigError(
                format_unknown_choice_message("instruction", kind, KINDS),
                key="task.exclude_kinds",
                value=",".join(task.exclude_kinds),
                code="unknown_choice",
            )
    prompts, num_excluded = _load_prompts(task)
    if not prompts:
        raise ConfigError(
            "no prompt is left. Use a file with records, or exclude fewer kinds",
            key="task.data",
            value=task.data,
            code="empty",
        )
    hashes = {"data": _hash_prompts(prompts)}
    kinds = {instruction.kind for prompt in prompts for instruction in prompt.instructions}
    if needing := sorted(kind for kind in kinds if KINDS[kind].needs_langdetect):
        hashes[PACKAGE] = require_langdetect(",".join(needing))
    if task.cluster is ClusterKey.kind:
        hashes |= hash_cluster_names([prompt.instructions[0].kind for prompt in prompts])
    inputs = InstructionsInputs(
        hashes,
        task,
        prompts,
        num_excluded,
        ignored_for_reuse=IGNORED_FOR_REUSE,
        count=len(prompts),
        data=describe_dataset(task.data, task.split, hashes["data"]),
    )
    inputs.find_baseline_and_extend_hashes(config, VERSION)
    return inputs


def _load_prompts(task: InstructionsConfig) -> tuple[list[InstructionPrompt], int]:
    """Return the prompts, and the number of prompts before the last one that were left out."""
    if task.is_generated:
        assert task.limit is not None
        reject_large_embedded_count(task.data, "task.limit", task.limit, task.limit)
        return generate_prompts(task.limit, task.num_instructions, task.data_seed, task.exclude_kinds), 0
    excluded, num_excluded = {*task.exclude_kinds}, 0
    prompts: list[InstructionPrompt] = []
    for prompt in iter_ifeval_prompts(task.data, task.split):
        if task.limit is not None and len(prompts) == task.limit:
            break
        if excluded.isdisjoint(instruction.kind for instruction in prompt.instructions):
            prompts.append(prompt)
        else:
            num_excluded += 1
    return prompts, num_excluded


def _hash_prompts(prompts: Sequence[InstructionPrompt]) -> str:
    plain = [
        [prompt.prompt, [[each.kind, dict(each.arguments)] for each in prompt.instructions]]
        for prompt in prompts
    ]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def run(inputs: InstructionsInputs, context: TaskContext) -> Result:
    """Generate the missing answers, check them and compute metrics."""
    task, resolved = inputs.task, context.resolved
    requests = build_job_requests(inputs)
    judge = InstructionJudge(dict(enumerate(inputs.prompts)), task.cluster)
    questions = {number: (prompt.prompt, prompt.gold) for number, prompt in enumerate(inputs.prompts)}
    early_stop = create_early_stop_policy(inputs, context, VERSION, questions, ALIKE)
    policies: list[Policy] = [
        PromptFacts("chat", requests[0]),
        RepeatOrder(task.repeat_index),
        RunningAccuracy(context),
        *filter(None, [early_stop]),
    ]
    done = collect_answers(requests, context, judge, policies)
    checked = [
        CheckedPrompt(
            tuple(instruction.kind for instruction in inputs.prompts[sample.index].instructions),
            judge.check_sample_follows_instructions(sample),
            sample.cluster,
        )
        for sample in done.samples
    ]
    metrics = score_included_samples(done.samples) | compute_instruction_metrics(checked) | done.metrics
    result = Result(metrics, facts=done.facts, problems=done.problems, tables=done.tables)
    result.tables |= {BY_KIND: compute_accuracy_by_instruction_kind(checked)}
    if levels := build_level_rows(checked):
        result.tables[BY_LEVEL] = levels
    limit = {LIMIT: str(context.config.generation.max_new_tokens)}
    notes = [*done.note_values, *filter(None, [format_cut_off_message(metrics, limit)])]
    notes += context_length.build_rope_notes_for_samples(resolved, done.samples)
    result.notes = render_notes(notes)
    if early_stop is not None:
        early_stop.add_to_result(result)
    return result


def build_job_requests(inputs: InstructionsInputs) -> list[Request]:
    return build_requests(inputs.task, inputs.prompts)


def build_requests(task: InstructionsConfig, prompts: Sequence[InstructionPrompt]) -> list[Request]:
    return [
        Request(
            number,
            build_chat_prompt(prompt.prompt, task.system),
            random_id=build_random_id(number, task.repeat_index),
        )
        for number, prompt in enumerate(prompts)
    ]


def preview(inputs: InstructionsInputs, resolved: ResolvedJob) -> str:
    """Return a summary of the prompts and the baseline for plan=true."""
    kinds = [instruction.kind for prompt in inputs.prompts for instruction in prompt.instructions]
    summary = format_prompt_summary(len(inputs.prompts), len(kinds), len({*kinds}), inputs.num_excluded)
    return "\n".join([summary, *render_notes(make_early_stopping_baseline_notes(resolved.config, inputs))])


def render_shown_prompts(inputs: InstructionsInputs, resolved: ResolvedJob) -> str:
    return render_prompts(resolved, build_requests(inputs.task, inputs.prompts[: inputs.task.show_prompt]))

"""task=generate: completes the user's prompts, and writes the completions in the order of the
prompts.

`samples.jsonl` in the job folder grows as completions end; an interrupted job resumes from it.
`completions.jsonl` holds them in the order of the prompts. Only the prompts' content identifies
the job: from a file, from stdin or from the command line, equal prompts are the same job.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from runner.render.notes import render_notes
from runner.tasks import (
    STDIN,
    BranchedPrompt,
    GivenPrompt,
    Job,
    PrintMode,
    ResolvedJob,
    RunnerConfig,
    TaskContext,
    TaskInputs,
    Uses,
    build_rope_notes_for_samples,
    collect_answers,
    convert_prompt_to_task_format,
    count_completions_by_outcome,
    describe_prompts,
    format_completions_as_jsonl,
    get_model_kind,
    hash_prompts,
    load_user_prompts,
    parse_prompt_file_path,
    read_samples,
    typed_task_config,
)
from runner.tasks.generate.keys import GenerateConfig
from runner_base import (
    COMPLETIONS,
    Answer,
    ConfigError,
    Result,
    RunRecordError,
    Sample,
    check_value,
    compute_thinking_metrics,
    convert_write_error,
    write_text_atomically,
)
from runner_engine import Attention, Request, to_local_model_config

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True

HEAD_CHARACTERS = 60  # of a prompt, in the table
log = logging.getLogger(__name__)


@dataclass
class GenerateInputs(TaskInputs):
    """The user's prompts, in order."""

    task: GenerateConfig
    prompts: list[GivenPrompt]


def prepare(config: RunnerConfig) -> GenerateInputs:
    task = typed_task_config(config, GenerateConfig)
    path = resolve_output_path(task)
    if path is not None:
        usable = path.is_file() or not path.exists()
        check_value(usable, "task.output", task.output, f"{path} is not a writable file")
        given = parse_prompt_file_path(task.prompt) or Path(task.prompts or STDIN).expanduser()
        clash = task.prompts != STDIN and given.exists() and path.exists() and given.samefile(path)
        check_value(
            not clash,
            "task.output",
            task.output,
            "the file contains the prompts and would be overwritten. Give another output file",
            code="conflict",
        )
    prompts = load_user_prompts(task)
    if any(isinstance(given, BranchedPrompt) for given in prompts):
        reject_unsupported_prompt_branches(config)
    sha256 = hash_prompts(prompts)
    return GenerateInputs(
        {"prompts": sha256}, task, prompts, data=describe_prompts(task, sha256), count=len(prompts)
    )


def reject_unsupported_prompt_branches(config: RunnerConfig) -> None:
    """Raise ConfigError for branches if the model or attention backend does not support them."""
    if not config.rope.has_branches:
        raise ConfigError(
            (
                f"rope={config.rope.name} does not support branches, which need two "
                "coordinates per token. Use rope=rope_2d, or omit the branches (task.branches, or "
                "the key branches in JSON lines)"
            ),
            code="conflict",
        )
    if to_local_model_config(config.model).attention is Attention.flash_attention_2:
        raise ConfigError(
            (
                "model.attention=flash_attention_2 supports no attention mask, which branches "
                "need. Use sdpa or eager"
            ),
            code="conflict",
        )


def run(inputs: GenerateInputs, context: TaskContext) -> Result:
    """Complete all unfinished prompts, then write all completions in the order of the prompts."""
    task, prompts, recorder = inputs.task, inputs.prompts, context.recorder
    written = check_output_file_before_overwrite(task, prompts, recorder.samples)
    requests = build_job_requests(inputs)
    if task.debug:
        log_prompt(context.resolved, requests[0])
    done = collect_answers(requests, context, unit="prompts")
    if task.debug:
        log_completions(recorder.samples[0])
    write_text_atomically(
        recorder.folder / COMPLETIONS, format_completions_as_jsonl(prompts, recorder.samples)
    )
    notes = render_notes([*done.note_values, *build_rope_notes_for_samples(context.resolved, done.samples)])
    metrics = (
        count_completions_by_outcome(done.samples) | compute_thinking_metrics(done.samples) | done.metrics
    )
    result = Result(metrics, facts=done.facts, notes=notes, problems=done.problems, tables=done.tables)
    write_completions(
        task, prompts, recorder.samples, result, context.config.print is PrintMode.full, written
    )
    return result


def deliver(inputs: GenerateInputs, resolved: ResolvedJob, job: Job, result: Result) -> None:
    """Print the recorded completions again, and write them to task.output."""
    task, prompts, samples = inputs.task, inputs.prompts, read_samples(job.samples_path)
    if len(samples) == len(prompts):
        if task.debug:
            log_prompt(resolved, build_prompt_request(task, 0, prompts[0]))
            log_completions(samples[0])
        check_output_file_before_overwrite(task, prompts, samples)
        write_completions(task, prompts, samples, result, resolved.config.print is PrintMode.full)
    elif task.output is not None:
        raise RunRecordError(
            (
                f"{job.samples_path} has only {len(samples)} of the {len(prompts)} recorded "
                f"samples, so task.output={task.output} cannot be written. Generate them again "
                "with rerun=all"
            ),
            code="damaged",
        )


def build_job_requests(inputs: GenerateInputs) -> list[Request]:
    return [build_prompt_request(inputs.task, index, given) for index, given in enumerate(inputs.prompts)]


def build_prompt_request(task: GenerateConfig, index: int, prompt: GivenPrompt) -> Request:
    branches = prompt.branches if isinstance(prompt, BranchedPrompt) else ()
    return Request(index, convert_prompt_to_task_format(task, prompt), tuple(task.stop), branches=branches)


def log_prompt(resolved: ResolvedJob, request: Request) -> None:
    """Log a prompt in the form that the model sees, with special tokens. Only the tokenizer is loaded."""
    ((text, ids),) = get_model_kind(resolved.config.model).encode_prompts(resolved, [request.prompt])
    log.info("prompt %s after the chat template: %r", request.id, text)
    log.info("prompt %s, %d token ids: %s", request.id, len(ids), ids)
    for number, beginning in enumerate(request.branches, start=1):
        log.info("prompt %s: branch %d begins with %r", request.id, number, beginning)


def log_completions(sample: Sample) -> None:
    for choice in sample.answers:
        log.info("completion %s, token ids: %s", sample.index, choice.token_ids)
        parts = choice.parts
        if parts.has_thinking:
            log.info("completion %s, thinking: %r", sample.index, parts.thinking)
        log.info("completion %s, text: %r (%s)", sample.index, parts.answer, choice.finish_reason.value)


# --------------------------------------------------------------------------------------- writing
# and showing


def check_output_file_before_overwrite(
    task: GenerateConfig,
    prompts: list[GivenPrompt],
    samples: dict[int, Sample],
    earlier_content: bytes | None = None,
) -> bytes | None:
    """Raise an error if task.output cannot be written, or if it exists with other content.

    Returns the file's content if it holds this job's completions: errors among them may become
    answers while the job runs.
    """
    path = resolve_output_path(task)
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise convert_write_error(path, error, "task.output") from error
    if task.overwrite or not path.exists():
        return None
    content, is_whole = path.read_bytes(), len(samples) == len(prompts)
    if content != earlier_content and not (
        is_whole and content == format_completions_as_jsonl(prompts, samples).encode()
    ):
        raise ConfigError(
            (
                f"{path} exists, and its content differs from this job's answers. Give "
                "another file, or replace it with task.overwrite=true"
            ),
            key="task.output",
            value=task.output,
            code="exists",
        )
    return content


def write_completions(
    task: GenerateConfig,
    prompts: list[GivenPrompt],
    samples: dict[int, Sample],
    result: Result,
    show_thinking: bool,
    earlier_content: bytes | None = None,
) -> None:
    path = resolve_output_path(task)
    if path is not None:
        # the file may have appeared meanwhile
        check_output_file_before_overwrite(task, prompts, samples, earlier_content)
        write_text_atomically(
            path, format_completions_as_jsonl(prompts, samples), "task.output", durable=True
        )
    if len(prompts) == 1:
        result.text = format_completion(prompts[0], samples[0], show_thinking)
        return
    result.rows = [
        row
        for index, given in enumerate(prompts[: task.show])
        for row in completion_table_rows(index, given, samples[index], show_thinking)
    ]


def format_completion(prompt: GivenPrompt, sample: Sample, show_thinking: bool) -> str:
    """Return a prompt's completion as text. Each branch has a number, and starts with its given text."""
    if not isinstance(prompt, BranchedPrompt):
        thinking, text = trim_thinking_and_answer(sample.answer)
        return f"[thinking] {thinking}\n\n{text}" if thinking and show_thinking else text
    pairs = zip(prompt.branches, sample.answers, strict=True)
    texts = (f"{beginning}{choice.parts.answer}" for beginning, choice in pairs)
    return "\n\n".join(f"[branch {number}] {text}" for number, text in enumerate(texts, start=1))


def completion_table_rows(
    index: int, prompt: GivenPrompt, sample: Sample, show_thinking: bool
) -> list[dict[str, object]]:
    return [
        {
            "": index,
            **({"branch": number} if sample.branches else {}),
            "prompt": format_truncated_prompt(prompt, number),
            **({"thinking": thinking} if thinking and show_thinking else {}),
            "completion": sample.error or text,
            "ended by": f"{choice.finish_reason.value}{(', still thinking' if choice.parts.is_open else '')}",
            "tokens": choice.num_tokens,
            **({} if sample.by is None else {"by": sample.by}),
        }
        for number, choice in enumerate(sample.answers, start=1)
        for thinking, text in [trim_thinking_and_answer(choice)]
    ]


def trim_thinking_and_answer(answer: Answer) -> tuple[str, str]:
    """Return thinking and answer without the blank lines that models write around thinking tags."""
    parts = answer.parts
    return (parts.thinking.strip(), parts.answer.strip()) if parts.has_thinking else ("", parts.answer)


def format_truncated_prompt(prompt: GivenPrompt, branch_number: int = 0) -> str:
    if isinstance(prompt, BranchedPrompt):
        return f"{format_truncated_prompt(prompt.main)} | {format_truncated_prompt(prompt.branches[branch_number - 1])}"
    text = " ".join((prompt if isinstance(prompt, str) else prompt[-1].content).split())
    return text if len(text) <= HEAD_CHARACTERS else f"{text[: HEAD_CHARACTERS - 1]}…"


def resolve_output_path(task: GenerateConfig) -> Path | None:
    """Return task.output with symbolic links resolved, so that links are not replaced."""
    return None if task.output is None else Path(task.output).expanduser().resolve()

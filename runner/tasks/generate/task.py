"""task=generate: complete the user's own prompts, and write the completions in the order of the
prompts.

`samples.jsonl` in the job folder grows as completions end; an interrupted job resumes from it.
`completions.jsonl` holds them in the order of the prompts. The prompts count by content: the same
ones from a file, from stdin or from the command line are the same job.
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
    Branched,
    Context,
    GivenPrompt,
    Inputs,
    Job,
    Print,
    ResolvedJob,
    RunnerConfig,
    Uses,
    build_prompt,
    collect,
    completion_lines,
    count_completions,
    describe_prompts,
    file_of,
    kind_of,
    load_prompts,
    needless_scaling_of,
    own_config,
    prompts_sha256,
    read_samples,
)
from runner.tasks.generate.keys import GenerateConfig
from runner_base import (
    COMPLETIONS,
    Answer,
    ConfigError,
    EvidenceError,
    Result,
    Sample,
    cannot_write,
    check,
    thinking_totals,
    write_atomically,
)
from runner_engine import Attention, Request, local_model

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True

HEAD_CHARACTERS = 60  # of a prompt, in the table
log = logging.getLogger(__name__)


@dataclass
class Prompts(Inputs):
    """The prompts of the job, in order."""

    task: GenerateConfig
    prompts: list[GivenPrompt]


def prepare(config: RunnerConfig) -> Prompts:
    """Read and hash the prompts."""
    task = own_config(config, GenerateConfig)
    path = output_path(task)
    if path is not None:
        usable = path.is_file() or not path.exists()
        check(usable, "task.output", task.output, f"{path} is not a file that can be written")
        given = file_of(task.prompt) or Path(task.prompts or STDIN).expanduser()
        clash = task.prompts != STDIN and given.exists() and path.exists() and given.samefile(path)
        check(not clash, "task.output", task.output, "this is the file with the prompts", code="conflict")
    prompts = load_prompts(task)
    if any(isinstance(given, Branched) for given in prompts):
        check_branches(config)
    sha256 = prompts_sha256(prompts)
    return Prompts(
        {"prompts": sha256}, task, prompts, data=describe_prompts(task, sha256), count=len(prompts)
    )


def check_branches(config: RunnerConfig) -> None:
    """Reject a model that cannot tell one branch from another, or cannot take their mask."""
    if not config.rope.has_branches:
        raise ConfigError(
            f"rope={config.rope.name} has no place for the branches of this job, which need two coordinates a token: "
            "use rope=rope_2d, or leave task.branches (in JSON lines: branches) out",
            code="conflict",
        )
    if local_model(config.model).attention is Attention.flash_attention_2:
        raise ConfigError(
            "model.attention=flash_attention_2 takes no mask of its own, which branches need: use sdpa or eager",
            code="conflict",
        )


def run(inputs: Prompts, context: Context) -> Result:
    """Complete what is not on disk yet, then write the completions in order."""
    task, prompts, recorder = inputs.task, inputs.prompts, context.recorder
    written = check_output(task, prompts, recorder.samples)
    requests = [build_request(task, index, given) for index, given in enumerate(prompts)]
    if task.debug:
        log_prompt(context.resolved, requests[0])
    done = collect(requests, context)
    if task.debug:
        log_completion(recorder.samples[0])
    write_atomically(recorder.folder / COMPLETIONS, completion_lines(prompts, recorder.samples))
    notes = render_notes([*done.note_values, *needless_scaling_of(context.resolved, done.samples)])
    metrics = count_completions(done.samples) | thinking_totals(done.samples) | done.metrics
    result = Result(metrics, facts=done.facts, notes=notes, problems=done.problems, tables=done.tables)
    hand_over(task, prompts, recorder.samples, result, context.config.print is Print.full, written)
    return result


def deliver(inputs: Prompts, resolved: ResolvedJob, job: Job, result: Result) -> None:
    """Show as many recorded completions as are asked for now, and write task.output."""
    task, prompts, samples = inputs.task, inputs.prompts, read_samples(job.samples_path)
    if len(samples) == len(prompts):
        if task.debug:
            log_prompt(resolved, build_request(task, 0, prompts[0]))
            log_completion(samples[0])
        check_output(task, prompts, samples)
        hand_over(task, prompts, samples, result, resolved.config.print is Print.full)
    elif task.output is not None:
        raise EvidenceError(
            f"{job.samples_path} holds {len(samples)} of the {len(prompts)} samples that were recorded, so "
            f"task.output={task.output} cannot be written: run with rerun=all to generate them again",
            code="damaged",
        )


def build_request(task: GenerateConfig, index: int, given: GivenPrompt) -> Request:
    """Return the request to continue a prompt, or each of its branches."""
    branches = given.branches if isinstance(given, Branched) else ()
    return Request(index, build_prompt(task, given), tuple(task.stop), branches=branches)


def log_prompt(resolved: ResolvedJob, request: Request) -> None:
    """Log a prompt as the model sees it, with special tokens; only the tokenizer is loaded for
    it."""
    ((text, ids),) = kind_of(resolved.config.model).encoded(resolved, [request.prompt])
    log.info("prompt %s as the model sees it: %r", request.id, text)
    log.info("prompt %s, %d token ids: %s", request.id, len(ids), ids)
    for number, beginning in enumerate(request.branches, start=1):
        log.info("prompt %s, branch %d begins with %r", request.id, number, beginning)


def log_completion(sample: Sample) -> None:
    """Log the completions of a prompt, with their tokens."""
    for choice in sample.answers:
        log.info("completion %s, token ids: %s", sample.index, choice.token_ids)
        parts = choice.parts
        if parts.has_thinking:
            log.info("completion %s, thinking: %r", sample.index, parts.thinking)
        log.info("completion %s, text: %r (%s)", sample.index, parts.answer, choice.finish_reason.value)


# --------------------------------------------------------------------------------------- writing
# and showing


def check_output(
    task: GenerateConfig, prompts: list[GivenPrompt], samples: dict[int, Sample], written: bytes | None = None
) -> bytes | None:
    """Reject a folder that cannot be written, and a file that holds anything but this job's
    completions.

    Returns the file's content if it holds those: errors among them may become answers while the job
    runs.
    """
    path = output_path(task)
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise cannot_write(path, error, "task.output") from error
    if task.overwrite or not path.exists():
        return None
    content, is_whole = path.read_bytes(), len(samples) == len(prompts)
    if content != written and not (is_whole and content == completion_lines(prompts, samples).encode()):
        raise ConfigError(
            f"{path} exists and holds something else than this job's completions: "
            "give another file, or task.overwrite=true to replace it",
            key="task.output",
            value=task.output,
            code="exists",
        )
    return content


def hand_over(
    task: GenerateConfig,
    prompts: list[GivenPrompt],
    samples: dict[int, Sample],
    result: Result,
    is_full: bool,
    written: bytes | None = None,
) -> None:
    """Write task.output, and put the rows of the table into the result; is_full: also what the
    model thought."""
    path = output_path(task)
    if path is not None:
        check_output(task, prompts, samples, written)  # the file may have appeared meanwhile
        write_atomically(path, completion_lines(prompts, samples), "task.output", durable=True)
    if len(prompts) == 1:
        result.text = whole(prompts[0], samples[0], is_full)
        return
    result.rows = [
        row
        for index, given in enumerate(prompts[: task.show])
        for row in rows(index, given, samples[index], is_full)
    ]


def whole(given: GivenPrompt, sample: Sample, is_full: bool) -> str:
    """Return a whole completion; branches one below the other, each from its beginning."""
    if not isinstance(given, Branched):
        thinking, text = shown(sample.answer)
        return f"[thinking] {thinking}\n\n{text}" if thinking and is_full else text
    pairs = zip(given.branches, sample.answers, strict=True)
    texts = (f"{beginning}{choice.parts.answer}" for beginning, choice in pairs)
    return "\n\n".join(f"[branch {number}] {text}" for number, text in enumerate(texts, start=1))


def rows(index: int, given: GivenPrompt, sample: Sample, is_full: bool) -> list[dict[str, object]]:
    """Return the rows of the table for one prompt: one, or one for each branch."""
    return [
        {
            "": index,
            **({"branch": number} if sample.branches else {}),
            "prompt": head(given, number),
            **({"thinking": thinking} if thinking and is_full else {}),
            "completion": sample.error or text,
            "ended by": f"{choice.finish_reason.value}{(', still thinking' if choice.parts.is_open else '')}",
            "tokens": choice.tokens,
            **({} if sample.by is None else {"by": sample.by}),
        }
        for number, choice in enumerate(sample.answers, start=1)
        for thinking, text in [shown(choice)]
    ]


def shown(answer: Answer) -> tuple[str, str]:
    """Return thinking and answer as people read them: without the blank lines that models put
    around their tags."""
    parts = answer.parts
    return (parts.thinking.strip(), parts.answer.strip()) if parts.has_thinking else ("", parts.answer)


def head(given: GivenPrompt, branch: int = 0) -> str:
    """Return the beginning of a prompt, and of a branch, on one line."""
    if isinstance(given, Branched):
        return f"{head(given.main)} | {head(given.branches[branch - 1])}"
    text = " ".join((given if isinstance(given, str) else given[-1].content).split())
    return text if len(text) <= HEAD_CHARACTERS else f"{text[: HEAD_CHARACTERS - 1]}…"


def output_path(task: GenerateConfig) -> Path | None:
    """Return the path of task.output, with links resolved: the file behind a link is replaced, not
    the link."""
    return None if task.output is None else Path(task.output).expanduser().resolve()

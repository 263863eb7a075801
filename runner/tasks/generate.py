"""task=generate: complete the user's own prompts, in their order, and hand the completions over.

`samples.jsonl` in the job folder grows as completions end and is what an interrupted job goes on from;
`completions.jsonl` holds them in the order of the prompts. The prompts count by content: the same ones from a file,
from stdin or from the command line are the same job.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from runner.checkpoints.resolve import Resolved, resolve
from runner.config.model import Attention, local_model
from runner.config.root import RunnerConfig
from runner.config.rope import Rope2dConfig
from runner.config.task import GenerateConfig
from runner.core.errors import ConfigError, EvidenceError, cannot_write, check
from runner.core.files import write_atomically
from runner.core.result import COMPLETIONS, Result, Sample
from runner.datasets.prompts import (
    STDIN,
    Branched,
    Given,
    build_prompt,
    completions,
    describe,
    load_prompts,
    prompts_sha256,
)
from runner.engines.base import Request
from runner.engines.kinds import kind_of
from runner.scorers.totals import count_completions
from runner.store.jobs import Job, read_samples
from runner.tasks.base import Context, Inputs, Uses, own_config
from runner.tasks.completing import complete_missing, sample_of

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True

HEAD_CHARACTERS = 60  # of a prompt, in the table
log = logging.getLogger(__name__)


@dataclass
class Prompts(Inputs):
    """The prompts of the job, in order."""

    task: GenerateConfig
    prompts: list[Given]


def prepare(config: RunnerConfig) -> Prompts:
    """Read and hash the prompts."""
    task = own_config(config, GenerateConfig)
    path = output_path(task)
    if path is not None:
        usable = path.is_file() or not path.exists()
        check(usable, "task.output", task.output, f"{path} is no file that could be written")
        given = Path(task.prompts or STDIN).expanduser()
        clash = task.prompts != STDIN and given.exists() and path.exists() and given.samefile(path)
        check(not clash, "task.output", task.output, "this is the file with the prompts")
    prompts = load_prompts(task)
    if any(isinstance(given, Branched) for given in prompts):
        check_branches(config)
    sha256 = prompts_sha256(prompts)
    return Prompts({"prompts": sha256}, task, prompts, data=describe(task, sha256), count=len(prompts))


def check_branches(config: RunnerConfig) -> None:
    """Refuse a model that would not tell one branch from another, or not take their mask."""
    if not isinstance(config.rope, Rope2dConfig):
        raise ConfigError(
            f"rope={config.rope.name} has no place for the branches of this job, which need two coordinates a token: "
            "use rope=rope_2d, or leave task.branches (in JSON lines: branches) out"
        )
    if local_model(config.model).attention is Attention.flash_attention_2:
        raise ConfigError(
            "model.attention=flash_attention_2 takes no mask of its own, which branches need: use sdpa or eager"
        )


def run(inputs: Prompts, context: Context) -> Result:
    """Complete what is not on disk yet, then write the completions in order."""
    task, prompts, recorder = inputs.task, inputs.prompts, context.recorder
    mine = check_output(task, prompts, recorder.samples)
    requests = [build_request(task, index, given) for index, given in enumerate(prompts)]
    if task.debug:
        log_prompt(context.config, context.resolved, requests[0])
    done = complete_missing("generate", requests, context, sample_of)
    if task.debug:
        log_completion(recorder.samples[0])
    write_atomically(recorder.folder / COMPLETIONS, completions(prompts, recorder.samples))
    metrics = count_completions(done.samples) | done.metrics
    result = Result(metrics, facts=done.facts, notes=done.notes, problems=done.problems, tables=done.tables)
    hand_over(task, prompts, recorder.samples, result, mine)
    return result


def deliver(inputs: Prompts, config: RunnerConfig, job: Job, result: Result) -> None:
    """Hand over what was recorded earlier: as many completions as are to be shown now, the file that is asked for."""
    task, prompts, samples = inputs.task, inputs.prompts, read_samples(job.samples_path)
    if len(samples) == len(prompts):
        if task.debug:
            log_prompt(config, resolve(config), build_request(task, 0, prompts[0]))
            log_completion(samples[0])
        check_output(task, prompts, samples)
        hand_over(task, prompts, samples, result)
    elif task.output is not None:
        raise EvidenceError(
            f"{job.samples_path} holds {len(samples)} of the {len(prompts)} samples that were recorded, so "
            f"task.output={task.output} cannot be written: run with rerun=all to generate them again"
        )


def build_request(task: GenerateConfig, index: int, given: Given) -> Request:
    """Ask for how a prompt goes on, or each of its branches."""
    branches = given.branches if isinstance(given, Branched) else ()
    return Request(index, build_prompt(task, given), tuple(task.stop), branches=branches)


def log_prompt(config: RunnerConfig, resolved: Resolved, request: Request) -> None:
    """Log a prompt as the model sees it, special tokens and all; the tokenizer is all that it takes."""
    ((seen, ids),) = kind_of(config.model).encoded(config, resolved, [request.prompt])
    log.info("prompt %s as the model sees it: %r", request.id, seen)
    log.info("prompt %s, %d token ids: %s", request.id, len(ids), ids)
    for number, text in enumerate(request.branches, start=1):
        log.info("prompt %s, branch %d begins with %r", request.id, number, text)


def log_completion(sample: Sample) -> None:
    """Log how a prompt went on, token by token."""
    for said in sample.said:
        log.info("completion %s, token ids: %s", sample.index, said.token_ids)
        log.info("completion %s, text: %r (%s)", sample.index, said.text, said.finish_reason.value)


# ------------------------------------------------------------------------------------------- handing over


def check_output(
    task: GenerateConfig, prompts: list[Given], samples: dict[int, Sample], mine: bytes | None = None
) -> bytes | None:
    """Refuse a folder that cannot be written, and to replace a file with anything but this job's completions.

    Returns what the file holds where those were handed over before: errors among them may have become answers since.
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
    there, whole = path.read_bytes(), len(samples) == len(prompts)
    if there != mine and not (whole and there == completions(prompts, samples).encode()):
        raise ConfigError(
            f"task.output={task.output}: {path} exists and holds something else than this job's completions: "
            "give another file, or task.overwrite=true to replace it"
        )
    return there


def hand_over(
    task: GenerateConfig, prompts: list[Given], samples: dict[int, Sample], result: Result, mine: bytes | None = None
) -> None:
    """Write task.output, and put into the result what the table shows."""
    path = output_path(task)
    if path is not None:
        check_output(task, prompts, samples, mine)  # it may have appeared meanwhile
        write_atomically(path, completions(prompts, samples), "task.output")
    if len(prompts) == 1:
        result.text = whole(prompts[0], samples[0])
        return
    result.rows = [
        row for index, given in enumerate(prompts[: task.show]) for row in rows(index, given, samples[index])
    ]


def whole(given: Given, sample: Sample) -> str:
    """Return all that was said; branches one below the other, each from its beginning."""
    if not isinstance(given, Branched):
        return sample.text
    pairs = zip(given.branches, sample.said, strict=True)
    return "\n\n".join(f"[branch {number}] {begun}{said.text}" for number, (begun, said) in enumerate(pairs, start=1))


def rows(index: int, given: Given, sample: Sample) -> list[dict[str, object]]:
    """Return the lines of the table for one prompt: one, or one a branch."""
    return [
        {
            "": index,
            **({"branch": number} if sample.branches else {}),
            "prompt": head(given, number),
            "completion": sample.error or said.text,
            "ended by": said.finish_reason.value,
            "tokens": said.tokens,
            **({} if sample.by is None else {"by": sample.by}),
        }
        for number, said in enumerate(sample.said, start=1)
    ]


def head(given: Given, branch: int = 0) -> str:
    """Return the beginning of what was asked, and that of a branch, on one line."""
    if isinstance(given, Branched):
        return f"{head(given.main)} | {head(given.branches[branch - 1])}"
    text = " ".join((given if isinstance(given, str) else given[-1].content).split())
    return text if len(text) <= HEAD_CHARACTERS else f"{text[: HEAD_CHARACTERS - 1]}…"


def output_path(task: GenerateConfig) -> Path | None:
    """Return where task.output points, links followed: what a link points to is replaced, not the link."""
    return None if task.output is None else Path(task.output).expanduser().resolve()

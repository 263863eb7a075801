"""Finds another job by its job id or by config overrides, and waits for its result.

`task.reference` of likelihoods and `task.early_stop_vs` share it. Overrides
are applied on top of the job's own config, so `quantization=none` is the same job without
quantization, and `model.dtype=float32` the same model in another number format. If a job names
itself, the result is None.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.config.task import TaskConfig
from runner.core.typed_command import format_grid_command
from runner.engines.kinds import get_model_kind
from runner.records.jobs import LOCK, Job, create_job_with_hashed_id, lock_job
from runner_base import ConfigError, Record, format_unknown_choice_message
from runner_base.files import is_locked

MODEL_GROUPS = ("model", "quantization", "lora", "rope")  # overrides of these choose another model
# what else changes log-probabilities of given texts
SCORING = (*MODEL_GROUPS, "generation.kv_cache")


def find_referenced_job(
    config: RunnerConfig,
    key: str,
    job_reference: str,
    version: int,
    hashes: dict[str, str],
    allowed_groups: Sequence[str] = MODEL_GROUPS,
) -> Job | None:
    """Return the job that a job id or overrides identify. None if it is this job itself.

    `hashes` are the input hashes that both jobs share. Overrides may change `allowed_groups` only.
    """
    own = build_job(config, version, hashes)
    if is_job_id(job_reference, config.task):
        named = find_job_by_id(config, job_reference)
    else:
        named = build_job(
            apply_overrides_from_text(config, key, job_reference, allowed_groups), version, hashes
        )
    return None if named.job_id == own.job_id else named


def parse_named_overrides(job_reference: str | None, task: TaskConfig) -> list[str]:
    """Split config overrides at blanks. Empty if `job_reference` is None or a job id."""
    return [] if job_reference is None or is_job_id(job_reference, task) else shlex.split(job_reference)


def build_job(config: RunnerConfig, version: int, hashes: dict[str, str]) -> Job:
    return create_job_with_hashed_id(
        config, version, _model_fingerprint(config) | hashes, is_measurement=False
    )


def find_job_by_id(config: RunnerConfig, job_id: str) -> Job:
    return Job(job_id, Path(config.output_dir).expanduser().absolute() / "jobs" / job_id)


def is_job_id(text: str, task: TaskConfig) -> bool:
    return re.fullmatch(rf"{task.name}-[0-9a-f]{{12}}", text) is not None


def apply_overrides_from_text(
    config: RunnerConfig, key: str, overrides_text: str, groups: Sequence[str]
) -> RunnerConfig:
    """Apply overrides of the form GROUP=CHOICE or GROUP.KEY=VALUE to a copy of the config.

    Without GROUP=CHOICE, keys of a group change the job's own choice. `groups` are groups, or
    single keys of other groups.
    """
    chosen: dict[str, str] = {}
    values: dict[str, Any] = {}
    try:
        of_words = shlex.split(overrides_text)  # a path with a space has quotes of its own
    except ValueError as error:
        raise ConfigError(
            f"{error}: close the quotes", key=key, value=overrides_text, code="bad_value"
        ) from error
    for word in of_words:
        where, _, value = word.partition("=")
        group, _, name = where.partition(".")
        if not value or not {group, where} & set(groups):
            raise ConfigError(
                (
                    f"{format_unknown_choice_message('override', word, groups)}. Use GROUP=CHOICE (such "
                    "as quantization=none), GROUP.KEY=VALUE or a job id"
                ),
                key=key,
                value=overrides_text,
                code="unknown_choice",
            )
        if name:
            values[where] = None if value == "null" else value
        else:
            chosen[group] = value
    own = {where: value for where, value in values.items() if where.partition(".")[0] not in chosen}
    others = {where: value for where, value in values.items() if where not in own}
    # imports Hydra, which most jobs' processes do not need
    from runner.config.compose import build_group_configs, update_group_configs

    try:
        return replace(
            config, **build_group_configs(chosen, chosen, others), **update_group_configs(config, own)
        )
    except ConfigError as error:
        raise ConfigError(str(error), key=key, value=overrides_text, code=error.code) from error


def _model_fingerprint(config: RunnerConfig) -> dict[str, str]:
    hashes = Path(config.output_dir).expanduser() / ".hashes.json"
    return get_model_kind(config.model).fingerprint(resolve_job(config), hashes)


def wait_for_job_record(job: Job) -> Record | None:
    """Wait until no process runs the job, and return its record. None if the job has never been run."""
    if job.read_last_record() is None and is_locked(job.folder / LOCK):
        with lock_job(job):
            pass
    return job.read_finished_record()


def wait_for_finished_record(job: Job, key: str, job_reference: str) -> Record:
    """Wait for the job and return its record. If the job is missing, a ConfigError names the command
    that runs it.
    """
    record = wait_for_job_record(job)
    if record is None:
        raise build_not_finished_error(key, job_reference, job)
    return record


def build_not_finished_error(
    key: str, job_reference: str, job: Job, extra_overrides: str = ""
) -> ConfigError:
    if job_reference == job.job_id:
        return ConfigError(
            f"no completed job in {job.folder.parent} has this id. Run the job first",
            key=key,
            value=job_reference,
            code="not_found",
        )
    what = f"job {job.job_id} is not complete in {job.folder.parent}"
    command = format_grid_command()  # a grid makes what its jobs name
    fix = (
        f"Run that job first: use this command with {job_reference}{extra_overrides} and without {key}"
        if command is None
        else f"This command runs both jobs: {command}"
    )
    return ConfigError(f"{what}. {fix}", key=key, value=job_reference, code="not_found")


def missing_question_error(key: str, job_reference: str, job: Job, question_number: int) -> ConfigError:
    return ConfigError(
        (
            f"job {job.job_id} did not answer question {question_number}. Use the same data, task.split, "
            "task.offset, task.shuffle_seed, task.only and task.limit in both jobs"
        ),
        key=key,
        value=job_reference,
        code="mismatch",
    )


def describe_job_state(job: Job) -> str:
    return "done" if job.read_finished_record() is not None else "must run first"

"""A key that names another job of the same task, by overrides or by its id: finds that job and
waits for it.

`task.reference` of likelihoods and `task.early_stop_vs` of word problems share it. Overrides are set
on top of the job's own config, so `quantization=none` is the same job without its quantization, and
`model.dtype=float32` the same model in another number format. If a job names itself, the result is
None.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.config.resolved import resolve
from runner.config.root import RunnerConfig
from runner.config.task import TaskConfig
from runner.core.typed import as_grid
from runner.engines.kinds import kind_of
from runner.records.jobs import LOCK, Job, claim, identify
from runner_base import ConfigError, Record, unknown
from runner_base.files import is_held

MODEL_GROUPS = ("model", "quantization", "lora", "rope")  # overrides of these choose another model
# what else changes log-probabilities of given texts
SCORING = (*MODEL_GROUPS, "generation.kv_cache")


def find(
    config: RunnerConfig,
    key: str,
    named_as: str,
    version: int,
    hashes: dict[str, str],
    groups: Sequence[str] = MODEL_GROUPS,
) -> Job | None:
    """Return the job that a key names, finished or not; None if that is the job itself.

    `hashes` are what both read. Overrides may change `groups` only.
    """
    own = job_of(config, version, hashes)
    if is_id(named_as, config.task):
        named = by_id(config, named_as)
    else:
        named = job_of(overridden(config, key, named_as, groups), version, hashes)
    return None if named.job_id == own.job_id else named


def overrides_of(named_as: str | None, task: TaskConfig) -> list[str]:
    """Return the overrides that a key has; none if it has no value, or the id of a job."""
    return [] if named_as is None or is_id(named_as, task) else shlex.split(named_as)


def job_of(config: RunnerConfig, version: int, hashes: dict[str, str]) -> Job:
    """Return the job of a config whose task reads what these hashes say."""
    return identify(config, version, _fingerprint(config) | hashes, measures=False)


def by_id(config: RunnerConfig, job_id: str) -> Job:
    """Return the job of this id in the output folder of a config."""
    return Job(job_id, Path(config.output_dir).expanduser().absolute() / "jobs" / job_id)


def is_id(text: str, task: TaskConfig) -> bool:
    """Whether this is the id of a job of such a task."""
    return re.fullmatch(rf"{task.name}-[0-9a-f]{{12}}", text) is not None


def overridden(config: RunnerConfig, key: str, overrides_text: str, groups: Sequence[str]) -> RunnerConfig:
    """Return the config with these overrides: GROUP=CHOICE, and GROUP.KEY=VALUE for the keys of a
    choice.

    Keys of a group without GROUP=CHOICE change the job's own choice. `groups` are groups, or single
    keys of others.
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
                f"{unknown('override', word, groups)}. Give GROUP=CHOICE, such as quantization=none, or "
                "GROUP.KEY=VALUE; or the id of a job",
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
    from runner.config.compose import changed, choose

    try:
        return replace(config, **choose(chosen, chosen, others), **changed(config, own))
    except ConfigError as error:
        raise ConfigError(str(error), key=key, value=overrides_text, code=error.code) from error


def _fingerprint(config: RunnerConfig) -> dict[str, str]:
    hashes = Path(config.output_dir).expanduser() / ".hashes.json"
    return kind_of(config.model).fingerprint(resolve(config), hashes)


def wait_for(job: Job) -> Record | None:
    """Return the record of a finished job, after waiting for the process that runs it; None if it
    has not been run."""
    if job.last_record() is None and is_held(job.folder / LOCK):
        with claim(job):
            pass
    return job.recorded()


def finished(job: Job, key: str, named_as: str) -> Record:
    """Return the record of a finished job, after waiting for the process that runs it; ConfigError
    says what to run."""
    record = wait_for(job)
    if record is None:
        raise not_done(key, named_as, job)
    return record


def not_done(key: str, named_as: str, job: Job, also: str = "") -> ConfigError:
    """Return the error that a named job has not been run, with the command; `also` is what it needs
    besides."""
    if named_as == job.job_id:
        return ConfigError(
            f"no finished job of that id in {job.folder.parent}. Run it first",
            key=key,
            value=named_as,
            code="not_found",
        )
    what = f"that job ({job.job_id}) is not done in {job.folder.parent}"
    command = as_grid()  # a grid makes what its jobs name
    fix = (
        f"Run it first: the same command with {named_as}{also} and without {key}"
        if command is None
        else f"This command runs it first, and then this job: {command}"
    )
    return ConfigError(f"{what}. {fix}", key=key, value=named_as, code="not_found")


def not_asked(key: str, named_as: str, job: Job, number: int) -> ConfigError:
    return ConfigError(
        f"{job.job_id} has not asked question {number} of this job: it was run "
        "on other data, or with another task.split, task.offset, task.shuffle_seed or task.only, "
        "or a smaller task.limit",
        key=key,
        value=named_as,
        code="mismatch",
    )


def state(job: Job) -> str:
    """Say for a plan whether a job is done."""
    return "done" if job.recorded() is not None else "must run first"

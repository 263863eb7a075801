"""A key that names another job of the same task, by overrides or by its id: finds that job and waits for it.

`task.reference` of likelihoods and `task.early_stop_vs` of word problems share it. Overrides are set on top of the
job's own config, so `quantization=none` is the same job without its quantization. If a job names itself, the result is
None.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.checkpoints.resolve import resolve
from runner.config.root import RunnerConfig
from runner.config.task import TaskConfig
from runner.core.errors import ConfigError, unknown
from runner.core.files import is_held
from runner.core.result import Record
from runner.engines.kinds import kind_of
from runner.store.jobs import LOCK, Job, claim, identify

GROUPS = ("model", "quantization", "lora", "rope", "generation")  # what overrides may change


def find(
    config: RunnerConfig,
    key: str,
    words: str,
    version: int,
    hashes: dict[str, str],
    other_hashes: dict[str, str] | None = None,
) -> Job | None:
    """Return the job that a key names, finished or not; None if that is the job itself.

    `hashes` are the job's own, `other_hashes` the other job's where they differ.
    """
    mine = identify(config, version, _fingerprint(config) | hashes, measures=False)
    if is_id(words, config.task):
        named = Job(words, mine.folder.with_name(words))
    else:
        other = overridden(config, key, words)
        theirs = hashes if other_hashes is None else other_hashes
        named = identify(other, version, _fingerprint(other) | theirs, measures=False)
    return None if named.job_id == mine.job_id else named


def is_id(words: str, task: TaskConfig) -> bool:
    """Whether this is the id of a job of such a task."""
    return re.fullmatch(rf"{task.name}-[0-9a-f]{{12}}", words) is not None


def overridden(config: RunnerConfig, key: str, words: str) -> RunnerConfig:
    """Return the config with these overrides: GROUP=CHOICE, and GROUP.KEY=VALUE for its keys."""
    chosen: dict[str, str] = {}
    values: dict[str, Any] = {}
    for word in words.split():
        where, _, value = word.partition("=")
        group, _, name = where.partition(".")
        if not value or group not in GROUPS:
            what = "GROUP=CHOICE, such as quantization=none, and GROUP.KEY=VALUE after it; or the id of a job"
            raise ConfigError(f"{key}={words}: {unknown('override', word, GROUPS)}. Give {what}")
        if name:
            values[where] = None if value == "null" else value
        else:
            chosen[group] = value
    for where in values:
        if (group := where.partition(".")[0]) not in chosen:
            raise ConfigError(f"{key}={words}: {where} needs {group}=CHOICE before it")
    from runner.config.compose import choose  # imports Hydra, which most jobs' processes do not need

    try:
        return replace(config, **choose(chosen, chosen, values))
    except ConfigError as error:
        raise ConfigError(f"{key}={words}: {error}") from error


def _fingerprint(config: RunnerConfig) -> dict[str, str]:
    hashes = Path(config.output_dir).expanduser() / ".hashes.json"
    return kind_of(config.model).fingerprint(config, resolve(config), hashes)


def wait_for(job: Job) -> Record | None:
    """Return the record of a finished job, after waiting for the process that runs it; None if it has not been run."""
    if job.last_record() is None and is_held(job.folder / LOCK):
        with claim(job):
            pass
    return job.recorded()


def state(job: Job) -> str:
    """Say for a plan whether a job is done."""
    return "done" if job.recorded() is not None else "must run first"

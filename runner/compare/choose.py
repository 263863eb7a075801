"""Which runs are compared: filters by config keys, and the newest run of each job."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from runner.compare.data import JOB_ID, Run, label
from runner.core.errors import ConfigError, unknown


def newest(runs: list[Run]) -> list[Run]:
    """Return of each job only the newest run; the runs come newest first."""
    found: dict[str, Run] = {}
    for run in runs:
        found.setdefault(run.job_id, run)
    return list(found.values())


def pick(ids: list[str], runs: list[Run], option: str) -> list[Run]:
    """Return the runs with these job or run ids, or what they begin with; of a job the newest run."""
    latest = newest(runs)
    chosen: dict[str, Run] = {}
    for text in ids:
        found = [run for run in latest if run.job_id == text] or [run for run in runs if run.run_id == text]
        if not found:
            found = [run for run in latest if run.job_id.startswith(text)]
            found = found or [run for run in runs if run.run_id.startswith(text)]
        if len(found) != 1:
            known = [run.job_id for run in latest]
            several = f"several runs begin like that: {listed(run.job_id for run in found)}"
            raise ConfigError(f"{option} {text}: {several if found else unknown('finished job or run', text, known)}")
        run = found[0]
        if run not in latest:  # the job's folder holds what its newest run said: this one's is in MLflow only
            run = replace(run, job_id=f"{run.job_id}@{run.run_id[:8]}", folder="")
        chosen[run.run_id] = run
    return list(chosen.values())


def parse_keys(text: str, runs: list[Run], option: str) -> list[str]:
    """Read KEY[,KEY]; a bare group name stands for group.name."""
    known = set().union(*(run.params for run in runs))
    return list(dict.fromkeys(full_key(key.strip(), known, f"{option} {text}") for key in text.split(",")))


def parse_pairs(text: str, runs: list[Run], option: str) -> dict[str, str]:
    """Read KEY=VALUE[,KEY=VALUE]; a bare group name stands for group.name."""
    known = {JOB_ID}.union(*(run.params for run in runs))
    pairs = {}
    for part in re.split(r",(?=[\w.]+=)", text):  # a comma inside a value, as in [1,4], parts nothing
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"{option} {text}: give KEY=VALUE, e.g. quantization=none")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        pairs[full_key(key, known, f"{option} {text}")] = value[1:-1] if quoted else value
    return pairs


def full_key(key: str, known: set[str], where: str) -> str:
    """Return the whole name of a config key: quantization stands for quantization.name."""
    full = key if key in known else f"{key}.name"
    if full not in known:
        raise ConfigError(f"{where}: {unknown('config key', key, map(label, known))}")
    return full


def select(runs: list[Run], wanted: dict[str, str], option: str) -> list[Run]:
    """Return the runs that have all wanted values; says which values there are when none has."""
    chosen = [run for run in runs if matches(run, wanted)]
    if not chosen:
        there = (f"{label(key)} has {listed(run.value(key) for run in runs)}" for key in wanted)
        raise ConfigError(f"{option}: no finished run matches; {'; '.join(there)}")
    return chosen


def matches(run: Run, wanted: dict[str, str]) -> bool:
    """Whether the run has all wanted values; numbers are compared as numbers."""
    return all(same(run.value(key), value) for key, value in wanted.items())


def same(value: str | None, wanted: str) -> bool:
    """Whether a value is the wanted one, as a text or as a number."""
    try:
        return value is not None and (value == wanted or float(value) == float(wanted))
    except ValueError:
        return False


def listed(values: Iterable[str | None], most: int = 12) -> str:
    """Return the distinct values in words, cut after `most`."""
    distinct = sorted({value for value in values if value is not None})
    rest = f" and {len(distinct) - most} more" if len(distinct) > most else ""
    return (", ".join(distinct[:most]) or "no value in any run") + rest

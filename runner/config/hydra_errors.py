"""Hydra's and OmegaConf's errors in one message: the full key, the value, the nearest valid key, the choices."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from runner.config.groups import GROUPS
from runner.config.root import RunnerConfig
from runner.core.errors import RunnerError, unknown

# choices of hydra/launcher and hydra/sweeper from other packages -> the extra that installs each
EXTRAS = {
    "joblib": "joblib",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
    "ray": "ray",
    "optuna": "optuna",
}


def explain(error: BaseException, conf: Path) -> str | None:
    """Return the one message for an error that a user can cause, or None for a bug."""
    if isinstance(error, RunnerError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _missing_config(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _from_cause(error, conf) or _first_lines(error)
    return None


def _missing_config(error: MissingConfigException) -> str:
    wanted = error.missing_cfg_file or ""
    group, _, choice = wanted.rpartition("/")
    if group in ("hydra/launcher", "hydra/sweeper") and choice in EXTRAS:
        return _missing_extra(group, choice)
    if group and error.options:
        return f"{group}={choice}: {unknown(f'choice for {group}', choice, error.options)}"
    return _first_lines(error)


def _missing_extra(group: str, choice: str) -> str:
    return f"{group}={choice} comes in a package that is not installed here: pip install 'runner[{EXTRAS[choice]}]'"


def _from_cause(error: BaseException, conf: Path) -> str | None:
    """Find the override that does not fit in the chain of causes, and the reason."""
    text = str(error)
    cause: BaseException | None = error
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__
    written = re.search(r"(?:Error merging override|Could not override) '?([^'\n]+?)'?\.?(?:\n|$)", text)
    if match := re.match(r"Could not override '([^']+)'\. ?\nNo match in the defaults list", text):
        return _unknown_key(match[1], conf)
    if isinstance(cause, ValidationError):
        return _wrong_value(cause, written[1] if written else "")
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(cause.full_key or (written[1] if written else ""), conf, cause.object_type)
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} has no value: give {cause.full_key}=..."
    return None


def _wrong_value(cause: ValidationError, written: str) -> str:
    key = cause.full_key or written.partition("=")[0]
    value = written.partition("=")[2]
    why = str(cause.msg or cause).splitlines()[0]
    expected = re.search(r"could not be converted to (\w+)", why)
    choices = re.search(r"expected one of \[([^\]]*)\]", why)
    if choices:
        names = [name.strip(" '") for name in choices[1].split(",")]
        return f"{key}={value}: {unknown(f'choice for {key}', value, names)}"
    if expected:
        words = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        return f"{key}={value}: {words.get(expected[1], expected[1])} is needed"
    return f"{key}={value}: {why}" if value else f"{key}: {why}"


def _unknown_key(key: str, conf: Path, owner: object = None) -> str:
    """Name the key and the nearest valid one: a group's, a root key, or a key of the group's schema."""
    head, dot, _ = key.rpartition(".")
    if dot:
        names = _schema_keys(owner) or {
            name for schema in GROUPS.get(head, {}).values() for name in _schema_keys(schema)
        }
        return f"{key}: {unknown('key', key, (f'{head}.{name}' for name in names))}"
    groups = [path.name for path in conf.iterdir() if path.is_dir() and path.name != "hydra"]
    return f"{key}: {unknown('group or key', key, {*groups, *_schema_keys(RunnerConfig)})}"


def _schema_keys(schema: object) -> set[str]:
    return {item.name for item in fields(schema)} if is_dataclass(schema) else set()


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:4]) or type(error).__name__

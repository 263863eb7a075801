"""Between Hydra and the schema: texts quoted for its grammar, schemas handed over, YAML checked, errors in one message.

A message holds the full key, the value, the nearest valid key and the choices.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
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
from runner.core.errors import ConfigError, RunnerError, unknown

PLAIN_TEXTS = ("task.prompt", "task.system", "task.instruction")

# choices of hydra/launcher and hydra/sweeper from other packages; its first word names the extra that installs it
EXTRAS = ("joblib", "submitit_local", "submitit_slurm", "ray", "optuna")


def quote_plain_texts(arguments: list[str]) -> list[str]:
    """Quote texts for Hydra, so that commas, colons and brackets in a prompt stand for themselves.

    Left alone: what is quoted already, plain words and lists of them, and a grid's arguments, which have a grammar.
    """
    if "-m" in arguments or "--multirun" in arguments:
        return arguments
    quoted = []
    for argument in arguments:
        key, _, text = argument.partition("=")
        plain = re.fullmatch(r"""[A-Za-z0-9_.,-]*|(['"]).*\1""", text, re.DOTALL)
        if key in PLAIN_TEXTS and not plain:
            text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation either
            argument = f"{key}={QuotedString(text, Quote.single).with_quotes()}"
        quoted.append(argument)
    return quoted


def register() -> None:
    """Hand every schema to Hydra, so that a YAML that extends it is type-checked.

    The schemas stand under hydra/schema/GROUP, because `--help` and tab completion list only groups outside hydra/.
    """
    from hydra.core.config_store import ConfigStore

    # Hydra deep-copies the store whenever it lists a group, and lists 60 groups for --help; listing changes nothing
    ConfigStore.__deepcopy__ = lambda self, _: self  # type: ignore[attr-defined]
    store = ConfigStore.instance().store
    store(group="hydra/schema", name="runner", node=RunnerConfig, provider="runner")
    # of a study's grid: sweeps by key, keys that advance together, combinations to leave out
    grid = {"_target_": "hydra_plugins.runner.GridSweeper", "params": {}, "zip": [], "exclude": []}
    workers = {"_target_": "hydra_plugins.runner.WorkerLauncher", "fresh": False}
    store(group="hydra/sweeper", name="grid", node=grid, provider="runner")
    store(group="hydra/launcher", name="workers", node=workers, provider="runner")
    for group, schemas in GROUPS.items():
        for name, schema in schemas.items():
            store(group=f"hydra/schema/{group}", name=name, node=schema, provider="runner")


def to_config(composed: Any) -> RunnerConfig:
    """Turn the composed YAML into checked dataclasses; a key that was forced in with + is refused here."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(composed)
    assert isinstance(config, RunnerConfig)
    _refuse_extra("", composed, config)
    return config


def _refuse_extra(prefix: str, composed: Any, checked: object) -> None:
    known = _schema_keys(checked)
    for key in map(str, composed):
        if key not in known:
            raise ConfigError(f"{prefix}{key}: {unknown('key', prefix + key, (prefix + name for name in known))}")
        if is_dataclass(getattr(checked, key)):
            _refuse_extra(f"{prefix}{key}.", composed[key], getattr(checked, key))


def _schema_keys(schema: object) -> set[str]:
    return {item.name for item in fields(schema)} if is_dataclass(schema) else set()


# -------------------------------------------------------------------------------------------------- errors


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
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if group in ("hydra/launcher", "hydra/sweeper") and choice in EXTRAS:
        install = f"pip install 'runner[{choice.partition('_')[0]}]'"
        return f"{group}={choice} comes in a package that is not installed here: {install}"
    if group and error.options:
        return f"{group}={choice}: {unknown(f'choice for {group}', choice, error.options)}"
    return _first_lines(error)


def _from_cause(error: BaseException, conf: Path) -> str | None:
    """Find the override that does not fit in the chain of causes, and the reason."""
    text, cause = str(error), error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if match := re.match(r"Could not override '([^']+)'\. ?\nNo match in the defaults list", text):
        return _unknown_key(match[1], conf)
    found = re.search(r"(?:Error merging override|Could not override) '?([^'\n]+?)'?\.?(?:\n|$)", text)
    written = found[1] if found else ""
    if isinstance(cause, ValidationError):
        return _wrong_value(cause, written)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(cause.full_key or written, conf, cause.object_type)
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} has no value: give {cause.full_key}=..."
    return None


def _wrong_value(cause: ValidationError, written: str) -> str:
    before, _, value = written.partition("=")
    key = cause.full_key or before
    why = str(cause.msg or cause).splitlines()[0]
    if choices := re.search(r"expected one of \[([^\]]*)\]", why):
        names = [name.strip(" '") for name in choices[1].split(",")]
        return f"{key}={value}: {unknown(f'choice for {key}', value, names)}"
    if expected := re.search(r"could not be converted to (\w+)", why):
        words = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        return f"{key}={value}: {words.get(expected[1], expected[1])} is needed"
    return f"{key}={value}: {why}" if value else f"{key}: {why}"


def _unknown_key(key: str, conf: Path, owner: object = None) -> str:
    """Name the key and the nearest valid one: a group's, a root key, or a key of the group's schema."""
    head, dot, _ = key.rpartition(".")
    if dot:
        names = _schema_keys(owner) or set().union(*map(_schema_keys, GROUPS.get(head, {}).values()))
        return f"{key}: {unknown('key', key, (f'{head}.{name}' for name in names))}"
    groups = [path.name for path in conf.iterdir() if path.is_dir() and path.name != "hydra"]
    return f"{key}: {unknown('group or key', key, {*groups, *_schema_keys(RunnerConfig)})}"


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:4]) or type(error).__name__

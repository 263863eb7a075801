"""From what Hydra composes to a checked config, and from each error to one message.

A message contains the full key, the value, the nearest valid key and the choices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from runner.config import data_sets, profiles
from runner.config.choices import file_of, own_files
from runner.config.groups import GROUPS, KeyType, key_type
from runner.config.hydra_versions import register_resolver
from runner.config.messages import schema_keys, unknown_choice, unknown_key, wrong_value
from runner.config.root import RunnerConfig
from runner_base import ConfigError, RunnerError, plug_ins, say
from runner_base.environment import variable
from runner_base.fields import choice_of

# choices of hydra/launcher and hydra/sweeper from other packages; the part before _ names the extra that installs it
EXTRAS = ("joblib", "submitit_local", "submitit_slurm", "ray", "optuna")

# OmegaConf has one table of resolvers for a whole program: these two names are all that the runner adds to it.
# conf/tracking uses the first. The processes of other launchers compose, too, and import this module.
register_resolver("variable", variable, replace=True)
register_resolver("data_set", data_sets.look_up, replace=True)  # conf/task uses it


class NoRunFolder(Callback):
    """Keeps Hydra from making the folder that hydra.run.dir names, which would stay empty."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Use the working directory instead, unless the job is to run in that folder."""
        if config.hydra.run.dir == "." or config.hydra.job.chdir or config.hydra.output_subdir:
            return
        say(f"note: hydra.run.dir={config.hydra.run.dir}: nothing is written there; results lie below output_dir")
        with read_write(config):
            config.hydra.run.dir = "."


def without_hydra(composed: DictConfig) -> tuple[DictConfig, dict[str, str]]:
    """Return a job's config without Hydra's half, and the choice of each group, which only that half contains."""
    choices = {str(group): str(choice) for group, choice in composed.hydra.runtime.choices.items()}
    data_sets.apply_data_set(composed)  # needs the folders that Hydra's half lists
    with read_write(composed), open_dict(composed):
        del composed["hydra"]
    return composed, choices


def to_config(composed: Any, choices: Mapping[str, str] | None = None) -> RunnerConfig:
    """Turn the composed YAML into checked dataclasses; a key that was forced in with + is rejected here.

    `choices` are those of the defaults list; the class of each group must belong to its choice.
    """
    if OmegaConf.get_type(composed) is not RunnerConfig:
        raise ConfigError("this config does not extend the runner's: it needs `defaults: [config, _self_]` on top")
    _refuse_extra("", composed)
    data_sets.apply_data_set(composed)
    if choices is not None:
        _refuse_other_choices(composed, choices)
        for group in GROUPS:
            _warn_if_hidden(group, choices.get(group, ""))
    config = OmegaConf.to_object(composed)
    assert isinstance(config, RunnerConfig)
    return config


@cache
def _warn_if_hidden(group: str, choice: str) -> None:
    """Say once that a plug-in has the name of one of the runner's own choices, which is used."""
    if (it := plug_ins(group).get(choice)) is not None and file_of(group, choice) in own_files(group):
        say(f"warning: {it} is not used: the runner itself has {group}={choice}")


def as_yaml(composed: DictConfig) -> str:
    """Return a job's config as it is stored: with the name of each group's choice, taken from its class."""
    kept: Any = OmegaConf.to_container(composed, enum_to_str=True)
    for group in GROUPS:
        if (choice := choice_of(OmegaConf.get_type(composed, group))) is not None:
            kept[group] = {"name": choice, **kept[group]}
    return OmegaConf.to_yaml(OmegaConf.create(kept))


def _refuse_extra(prefix: str, composed: DictConfig) -> None:
    schema = OmegaConf.get_type(composed)
    known = schema_keys(schema)
    for key in map(str, composed):
        if key not in known:
            raise ConfigError(unknown_key(f"{prefix}{key}", schema, composed._get_node(key)))
        node = composed._get_node(key)
        if isinstance(node, DictConfig) and is_dataclass(OmegaConf.get_type(node)):
            _refuse_extra(f"{prefix}{key}.", node)


def _refuse_other_choices(composed: DictConfig, choices: Mapping[str, str]) -> None:
    """Reject a group whose class is not that of its choice: what is shown and recorded would not be what runs."""
    for group, schemas in GROUPS.items():
        choice, actual = choices.get(group, ""), OmegaConf.get_type(composed, group)
        if choice in schemas and schemas[choice] is not actual:
            kind = getattr(actual, "__name__", actual)
            if choice in plug_ins(group):
                raise ConfigError(
                    f"{plug_ins(group)[choice]}: its YAML does not begin with its schema (docs/plugins.md)"
                )
            raise ConfigError(
                f"{group}={choices[group]} is the choice, and the config puts a {kind} there: "
                f"choose with {group}=CHOICE, or with `override /{group}: CHOICE` in a defaults list"
            )
    named, chosen = str(composed.profile), choices.get("profile", profiles.NONE)
    if named != chosen:
        raise ConfigError(
            f"profile: {named} is not a key: it would choose nothing (profile={chosen} is the choice). Use "
            f"profile={named}, or `override /profile: {named}` in a defaults list"
        )


# -------------------------------------------------------------------------------------------------- errors


@contextmanager
def config_errors() -> Iterator[None]:
    """Raise an error that the user caused as a ConfigError with one message; a RunnerError has its message already."""
    try:
        yield
    except Exception as error:
        message = None if isinstance(error, RunnerError) else explain(error)
        if message is None:
            raise
        raise ConfigError(message) from error


def explain(error: BaseException) -> str | None:
    """Return the one message for an error that a user can cause, or None for a bug."""
    if isinstance(error, RunnerError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _missing_config(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _from_cause(error) or _first_lines(error)
    return None


def _unreadable(override: str) -> str:
    """Say what to type for an override that Hydra's grammar rejects."""
    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[+~]{0,2}[A-Za-z_][\w.@/-]*", key, re.ASCII):
        return f"{override}: not a valid override: write KEY=VALUE or GROUP=CHOICE (all keys: --help)"
    fix = _in_quotes(key, value)
    return f"{override}: the value cannot be read: text with special characters needs quotes inside the shell's: {fix}"


def _in_quotes(key: str, value: str) -> str:
    return f"\"{key}='{value}'\"" if "'" not in value else f"'{key}=\"{value}\"'"


def _several(key: str, value: str) -> str:
    """Say what to type for several values of a key without a grid."""
    kind = key_type(key) or KeyType()
    fix = (
        f". If it is one text, put it in quotes inside the shell's: {_in_quotes(key, value)}" if kind.is_string else ""
    )
    fix = f". If it is a list: {key}=[{value}]" if kind.takes_brackets else fix
    return f"{key}={value}: several values. To sweep over it, add --multirun (-m){fix}"


def _missing_config(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if group in ("hydra/launcher", "hydra/sweeper") and choice in EXTRAS:
        install = f"pip install 'runner-llm[{choice.partition('_')[0]}]'"
        return f"{group}={choice} comes in a package that is not installed here: {install}"
    if (plug_in := plug_ins(group).get(choice)) is not None:
        return f"{plug_in}: its package has no file conf/{group}/{choice}.yaml"
    if group and error.options:
        return unknown_choice(group, choice, error.options)
    return _first_lines(error)


def _from_cause(error: BaseException) -> str | None:
    """Return a message from the chain of causes: the override that does not fit, and why."""
    text, cause = str(error), error
    if (match := re.match(r"In '([^']+)': \w+ raised while composing config", text)) and error.__context__ is not None:
        reason = _from_cause(error.__context__)
        return f"{match[1]}.yaml: {reason}" if reason else None
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if match := re.match(r"Could not override '([^']+)'\.[ \n]+No match in the defaults list", text):
        return unknown_key(match[1])
    if match := re.match(r"Could not delete from config. '([^']+)' does not exist", text):
        return unknown_key(match[1])
    if match := re.match(r"Ambiguous value for argument '([^=]*)=(.*)'\n1\. ", text, re.DOTALL):
        return _several(match[1], match[2])
    match = re.search(r"(?:Error merging override |To append to your config use \+)([^\n]+)(?:\n|$)", text)
    written = match[1] if match else ""
    key, _, value = written.partition("=")
    if key.lstrip("+").startswith("profile."):  # the only group that is a text in the config
        return unknown_key(key.lstrip("+"), value=value)
    if isinstance(cause, ValidationError):
        return wrong_value(cause, written)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return unknown_key(cause.full_key or key, cause.object_type, value if key == cause.full_key else None)
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} has no value: give {cause.full_key}=..."
    return None


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:4]) or type(error).__name__

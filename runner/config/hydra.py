"""Converts the config that Hydra composes to a validated RunnerConfig."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write

from runner.config import data_sets, profiles
from runner.config.battery_sizes import plan_battery_questions
from runner.config.choices import find_choice_file, installed_choice_files
from runner.config.gate import resolve_early_stop_key
from runner.config.groups import GROUPS, schema_keys
from runner.config.hydra_versions import register_resolver
from runner.config.root import RunnerConfig
from runner_base import ConfigError, find_plug_ins, print_message
from runner_base.environment import get_variable
from runner_base.fields import get_choice_name

# OmegaConf has one table of resolvers for a whole program: these names are all that the runner
# adds to it. conf/tracking uses the first. The processes of other launchers compose, too, and
# import this module.
register_resolver("variable", get_variable, replace=True)
register_resolver("battery_questions", plan_battery_questions, replace=True)  # conf/task/battery uses it
register_resolver("early_stop_from_gate", resolve_early_stop_key, replace=True)  # conf/task uses it
register_resolver("data_set", data_sets.resolve_data_set_key, replace=True)  # conf/task uses it


class NoRunFolder(Callback):
    """Hydra callback that prevents the creation of the unused, empty folder hydra.run.dir."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Set hydra.run.dir to the working directory, unless Hydra itself uses that folder, as with
        hydra.job.chdir.
        """
        if config.hydra.run.dir == "." or config.hydra.job.chdir or config.hydra.output_subdir:
            return
        print_message(
            f"note: hydra.run.dir={config.hydra.run.dir} has no effect. Results are written to output_dir"
        )
        with read_write(config):
            config.hydra.run.dir = "."


def split_job_config_and_choices(composed: DictConfig) -> tuple[DictConfig, dict[str, str]]:
    """Split a composed config into the job's config and the choice of each config group. Removes
    hydra.* from the config.
    """
    choices = {str(group): str(choice) for group, choice in composed.hydra.runtime.choices.items()}
    data_sets.set_task_keys_from_data_set(composed)  # needs the folders that Hydra's half lists
    with read_write(composed), open_dict(composed):
        del composed["hydra"]
    return composed, choices


def to_runner_config(composed: Any, choices: Mapping[str, str] | None = None) -> RunnerConfig:
    """Convert a composed config to validated dataclasses. Unknown keys that a user added with + are
    rejected.

    `choices` are those of the defaults list; the class of each group must belong to its choice.
    """
    if OmegaConf.get_type(composed) is not RunnerConfig:
        raise ConfigError(
            "this config does not extend the runner's config. Begin it with `defaults: [config, _self_]`",
            code="missing",
        )
    _reject_unknown_keys("", composed)
    data_sets.set_task_keys_from_data_set(composed)
    if choices is not None:
        _reject_mismatched_choices(composed, choices)
        for group in GROUPS:
            _warn_of_shadowed_plugin(group, choices.get(group, ""))
    config = OmegaConf.to_object(composed)
    assert isinstance(config, RunnerConfig)
    return config


@cache
def _warn_of_shadowed_plugin(group: str, choice: str) -> None:
    """Warn once that a plug-in's choice has the same name as a choice of the runner and is therefore
    ignored.
    """
    if (plug_in := find_plug_ins(group).get(choice)) is not None and find_choice_file(
        group, choice
    ) in installed_choice_files(group):
        print_message(f"warning: {plug_in} is ignored, because the runner already has {group}={choice}")


def format_config_as_yaml(composed: DictConfig) -> str:
    kept: Any = OmegaConf.to_container(composed, enum_to_str=True)
    for group in GROUPS:
        if (choice := get_choice_name(OmegaConf.get_type(composed, group))) is not None:
            kept[group] = {"name": choice, **kept[group]}
    return OmegaConf.to_yaml(OmegaConf.create(kept))


def _reject_unknown_keys(prefix: str, composed: DictConfig) -> None:
    schema = OmegaConf.get_type(composed)
    known = schema_keys(schema)
    for key in map(str, composed):
        if key not in known:
            from runner.config.messages import make_unknown_key_error  # most configs need no message

            raise make_unknown_key_error(f"{prefix}{key}", schema, composed._get_node(key))
        node = composed._get_node(key)
        _reject_scalar_for_container(f"{prefix}{key}", composed, key, node)
        if isinstance(node, DictConfig) and is_dataclass(OmegaConf.get_type(node)):
            _reject_unknown_keys(f"{prefix}{key}.", node)


def _reject_scalar_for_container(full_name: str, composed: DictConfig, key: str, node: Any) -> None:
    """Reject an interpolation that replaces a list or mapping by a single value, which OmegaConf accepts."""
    if not isinstance(node, DictConfig | ListConfig) or not node._is_interpolation():
        return
    if (value := composed[key]) is not None and not isinstance(value, type(node)):
        needed = "a list" if isinstance(node, ListConfig) else "a mapping (names with values)"
        raise ConfigError(
            f"must be {needed}, not a single value", key=full_name, value=value, code="bad_value"
        )


def _reject_mismatched_choices(composed: DictConfig, choices: Mapping[str, str]) -> None:
    """Reject a group whose config class does not match its choice, because the record would name the
    wrong choice.
    """
    for group, schemas in GROUPS.items():
        choice, actual = choices.get(group, ""), OmegaConf.get_type(composed, group)
        if choice in schemas and schemas[choice] is not actual:
            kind = getattr(actual, "__name__", actual)
            if choice in find_plug_ins(group):
                raise ConfigError(
                    "its YAML file must begin with its schema. See docs/plugins.md",
                    key=find_plug_ins(group)[choice],
                    code="damaged",
                )
            raise ConfigError(
                (
                    f"{group}={choices[group]} is chosen, but the config has the keys of {group}={kind}. "
                    f"Set {group}=CHOICE, or add `override /{group}: CHOICE` to the defaults list"
                ),
                code="conflict",
            )
    named, chosen = str(composed.profile), choices.get("profile", profiles.NONE)
    if named != chosen:
        raise ConfigError(
            (
                f"the config sets profile={named}, but the chosen profile is {chosen}. Use "
                f"profile={named}, or add `override /profile: {named}` to the defaults list"
            ),
            key="profile",
            code="no_effect",
        )

"""Between Hydra and the schema: registers the schemas, checks the YAML, and turns each error into one message.

A message contains the full key, the value, the nearest valid key and the choices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.plugins.completion_plugin import CompletionPlugin
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from runner.config import completion, data_sets, help, profiles
from runner.config.choices import CONF, choices_for, file_of
from runner.config.groups import GROUPS, KeyType, key_types, names_of
from runner.config.hydra_versions import register_resolver
from runner.config.messages import schema_keys, unknown_choice, unknown_key, wrong_value
from runner.config.missing_keys import HYDRAS_OWN, compose_config
from runner.config.ray import RayLauncherConfig
from runner.config.root import RunnerConfig
from runner.config.stored_schemas import StoredSchema, open_keys
from runner.config.yaml_files import load_checked
from runner.core.console import say
from runner.core.environment import variable
from runner.core.errors import ConfigError, RunnerError
from runner.core.fields import choice_of
from runner.core.plugins import plug_ins

# choices of hydra/launcher and hydra/sweeper from other packages; the part before _ names the extra that installs it
EXTRAS = ("joblib", "submitit_local", "submitit_slurm", "ray", "optuna")

_composed_mode: Any = Hydra.get_mode

# conf/tracking uses it. It is registered here and not in register(): the processes of other launchers compose, too
register_resolver("variable", variable, replace=True)
register_resolver("data_set", data_sets.look_up, replace=True)  # conf/task uses it


_load = OmegaConf.load


def _load_bounded(file: Any) -> Any:
    """Load a file as OmegaConf does, after a check of its depth and of what its aliases unpack to."""
    return load_checked(file, _load)


@cache
def register() -> None:
    """Hand every schema to Hydra, so that a YAML that extends it is type-checked.

    The schemas are under hydra/schema/GROUP, because `--help` and tab completion list only groups outside hydra/.
    """
    its: Any = Hydra  # some signatures differ between its versions
    its.get_mode = _mode
    if its.compose_config is HYDRAS_OWN:
        its.compose_config = compose_config
    its.get_help = help.get_help
    its.show_cfg = help.show_cfg
    CompletionPlugin._query = completion.query  # type: ignore[method-assign]
    OmegaConf.load = staticmethod(_load_bounded)  # type: ignore[assignment,method-assign]
    # Hydra deep-copies the store whenever it lists a group, and lists 60 groups for --help; listing changes nothing
    ConfigStore.__deepcopy__ = lambda self, _: self  # type: ignore[attr-defined]
    store = ConfigStore.instance().store
    store(group="hydra/schema", name="runner", node=RunnerConfig, provider="runner")
    # of a study's grid: sweeps by key, keys that advance together, combinations to leave out, a folder of model files
    grid: dict[str, Any] = {
        "_target_": "hydra_plugins.runner.GridSweeper",
        "params": {},
        "zip": [],
        "cases": [],
        "exclude": [],
    }
    grid |= {"files": None, "reference": None}
    workers = {"_target_": "hydra_plugins.runner.WorkerLauncher", "fresh": False}
    store(group="hydra/sweeper", name="grid", node=open_keys(OmegaConf.create(grid), "params"), provider="runner")
    store(group="hydra/launcher", name="workers", node=workers, provider="runner")
    if find_spec("optuna") is not None:
        search: dict[str, Any] = {"_target_": "hydra_plugins.runner.OptunaSearch", "n_trials": 20, "n_jobs": 2}
        search |= {"direction": "maximize", "params": {}, "sampler": {"name": "tpe", "seed": None}}
        search |= {"storage": None, "study_name": None, "max_failure_rate": 0.0, "prune": False}
        store(
            group="hydra/sweeper", name="optuna", node=open_keys(OmegaConf.create(search), "params"), provider="runner"
        )
    in_hydra: Any = ConfigStore.instance().repo["hydra"]
    schemas = {group: {f"{name}.yaml": StoredSchema(group, name) for name in names_of(group)} for group in GROUPS}
    in_hydra["schema"].update(schemas)
    for name, of_weights in profiles.nodes([it for it in choices_for("model") if it not in plug_ins("model")]):
        store(group="hydra/profile", name=name, node=of_weights, package="_global_", provider="runner")


def adapt_plugins() -> None:
    """Store other packages' plugins again under the same names, with our values where their defaults do not fit."""
    if find_spec("ray") is not None:
        with suppress(ImportError):
            import hydra_plugins.hydra_ray_launcher._config  # noqa: F401  # it stores a launcher of this name, too
        _store_again("ray", RayLauncherConfig)
    with suppress(ImportError):
        from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

        # a job resumes from its samples: at its time limit, and when its node fails, it goes back into the queue
        slurm = SlurmQueueConf(_target_="hydra_plugins.runner.SlurmLauncher", max_num_timeout=3)
        slurm.additional_parameters = {"requeue": True}
        _store_again("submitit_slurm", slurm)


def _store_again(launcher: str, node: Any) -> None:
    """Store a launcher's keys in place of others; Hydra 1.4 warns of two under one name."""
    store = ConfigStore.instance()
    stored: Any = store.repo.get("hydra", {})
    stored.get("launcher", {}).pop(f"{launcher}.yaml", None)
    store.store(group="hydra/launcher", name=launcher, node=node, provider="runner")


def _mode(self: Hydra, config_name: str | None, overrides: list[str], **of_hydra_1_4: Any) -> Any:
    """Return hydra.mode. Hydra would compose the job once more for it, though only a study or an override sets it."""
    places = {place.provider: place.path for place in self.config_loader.get_search_path().get_path()}
    is_ours = config_name == "config" and places.get("main") == str(CONF) and "command-line" not in places
    if is_ours and not any("hydra" in override for override in overrides):
        return None  # its default
    return _composed_mode(self, config_name, overrides, **of_hydra_1_4)


class NoRunFolder(Callback):
    """Keeps Hydra from making the folder that hydra.run.dir names, which would stay empty."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Use the working directory instead, unless the job is to run in that folder."""
        if config.hydra.run.dir == "." or config.hydra.job.chdir or config.hydra.output_subdir:
            return
        say(f"note: hydra.run.dir={config.hydra.run.dir}: nothing is written there; results lie below output_dir")
        with read_write(config):
            config.hydra.run.dir = "."


def hydra_of(study_folder: str | None = None) -> Hydra:
    """Return a Hydra object of its own that composes the runner's configs, and those of a folder of studies."""
    register()
    search = create_config_search_path(str(CONF))
    if study_folder is not None:  # as -cd does
        place = f"file://{Path(study_folder).expanduser().absolute()}"
        search.prepend("command-line", place, SearchPathQuery(provider="schema"))
    return Hydra("runner", ConfigLoaderImpl(search))


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
    if (it := plug_ins(group).get(choice)) is not None and file_of(group, choice).is_relative_to(CONF):
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
    kind = key_types().get(key, KeyType())
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

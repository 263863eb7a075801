"""Between Hydra and the schema: schemas handed over, YAML checked, errors in one message.

A message holds the full key, the value, the nearest valid key and the choices.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from runner.config import profiles, variables
from runner.config.choices import CONF, choices_for, of_model
from runner.config.groups import GROUPS, Kind, kinds
from runner.config.messages import schema_keys, unknown_choice, unknown_key, wrong_value
from runner.config.plain_text import quote_texts, sweep_of
from runner.config.root import RunnerConfig
from runner.config.variables import Chosen, translate
from runner.core.console import say
from runner.core.environment import variable
from runner.core.errors import ConfigError, RunnerError, unknown

# choices of hydra/launcher and hydra/sweeper from other packages; its first word names the extra that installs it
EXTRAS = ("joblib", "submitit_local", "submitit_slurm", "ray", "optuna")

_composed_mode = Hydra.get_mode

# for conf/tracking, here and not in register(): the processes of other launchers compose, too
OmegaConf.register_new_resolver("variable", variable, replace=True)


def register() -> None:
    """Hand every schema to Hydra, so that a YAML that extends it is type-checked.

    The schemas stand under hydra/schema/GROUP, because `--help` and tab completion list only groups outside hydra/.
    """
    from hydra.core.config_store import ConfigStore

    Hydra.get_mode = _mode  # type: ignore[method-assign]
    # Hydra deep-copies the store whenever it lists a group, and lists 60 groups for --help; listing changes nothing
    ConfigStore.__deepcopy__ = lambda self, _: self  # type: ignore[attr-defined]
    store = ConfigStore.instance().store
    store(group="hydra/schema", name="runner", node=RunnerConfig, provider="runner")
    # of a study's grid: sweeps by key, keys that advance together, combinations to leave out
    grid = {"_target_": "hydra_plugins.runner.GridSweeper", "params": {}, "zip": [], "exclude": []}
    workers = {"_target_": "hydra_plugins.runner.WorkerLauncher", "fresh": False}
    store(group="hydra/sweeper", name="grid", node=_open(OmegaConf.create(grid), "params"), provider="runner")
    store(group="hydra/launcher", name="workers", node=workers, provider="runner")
    for group, schemas in GROUPS.items():
        for name, schema in schemas.items():
            free = [item.name for item in fields(schema) if item.default_factory is dict]
            node = _open(OmegaConf.structured(schema), *free) if free else schema
            store(group=f"hydra/schema/{group}", name=name, node=node, provider="runner")
    for name, of_weights in profiles.nodes(choices_for("model")):
        store(group="hydra/profile", name=name, node=of_weights, package="_global_", provider="runner")


def _mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """Return hydra.mode; Hydra composes the whole job once more for it, though only a study or an override sets it."""
    places = {place.provider: place.path for place in self.config_loader.get_search_path().get_path()}
    is_ours = config_name == "config" and places.get("main") == str(CONF) and "command-line" not in places
    if is_ours and not any("hydra" in said for said in overrides):
        return None  # which is what it is then
    return _composed_mode(self, config_name, overrides)


def _open(node: DictConfig, *keys: str) -> DictConfig:
    """Let these keys of a node take keys of the user's own, without a + before them."""
    for key in keys:
        OmegaConf.set_struct(node[key], False)
    return node


class NoRunFolder(Callback):
    """Keeps Hydra from making the folder that hydra.run.dir names, in which nothing would lie."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Name the working directory instead, unless the job is to run in that folder."""
        if config.hydra.run.dir == "." or config.hydra.job.chdir or config.hydra.output_subdir:
            return
        say(f"note: hydra.run.dir={config.hydra.run.dir}: nothing is written there; results lie below output_dir")
        with read_write(config):
            config.hydra.run.dir = "."


def hydra_of(study_folder: str | None = None) -> Hydra:
    """Return a Hydra that composes the runner's configs, and those of a folder of studies; no other one is touched."""
    register()
    search = create_config_search_path(str(CONF))
    if study_folder is not None:  # as -cd does
        place = f"file://{Path(study_folder).expanduser().absolute()}"
        search.prepend("command-line", place, SearchPathQuery(provider="schema"))
    return Hydra("runner", ConfigLoaderImpl(search))


def variables_as_overrides(said: list[str], name: str = "config", folder: str | None = None) -> list[str]:
    """Return what the variables of the environment say that the overrides leave open; each is printed on stderr."""
    if not any(os.environ.get(variable) for variable in variables.NAMES):
        return []
    asked = {line.partition("=")[0].lstrip("+~"): line for line in said}
    hydra = hydra_of(folder)
    if of_study := _swept(hydra, name, "profile"):
        asked.setdefault("profile", of_study)
    wanted = _values(asked["profile"]) if "profile" in asked else []
    for profile in wanted:  # it wins, too
        asked = dict.fromkeys(profiles.keys_of(str(profile)), asked["profile"]) | asked

    def models(choice: str | None) -> list[Chosen]:
        own: list[str | None] = ["api"] if {*wanted} == {"teacher_only"} else [None]
        own = _values(asked["model"]) if asked.get("model", "").startswith("model=") else own
        if choice is None and own == [None]:
            swept = _swept(hydra, name, "model")
            own = _values(swept) if swept else own
        return [_model_of(hydra, name, one) for one in ([choice] if choice else own)]

    found = translate(os.environ, asked, models)
    for line in found.lines:
        say(line)
    return quote_texts(found.overrides)


def _swept(hydra: Hydra, name: str, key: str) -> str:
    """Return how a study sweeps over a key, as an override; empty where it does not."""
    with suppress(HydraException):  # the job itself says what is wrong with its config
        swept = _compose(hydra, name, []).hydra.sweeper.get("params", {}).get(key)
        return sweep_of(key, swept) if swept is not None else ""
    return ""


def _values(override: str) -> list[str | None]:
    """Return the values of an override, of a sweep or of one; nothing of one that cannot be read."""
    with suppress(HydraException):
        read = OverridesParser.create().parse_override(override)
        return [*read.sweep_string_iterator()] if read.is_sweep_override() else [read.get_value_element_as_str()]
    return [None]


def _model_of(hydra: Hydra, name: str, choice: str | None) -> Chosen:
    """Describe a choice of model in a config, None: its own; a choice that there is not has no keys."""
    try:
        composed = _compose(hydra, name, [] if choice is None else [f"model={choice}"])
    except HydraException:
        return Chosen(str(choice), frozenset())
    return of_model(str(composed.hydra.runtime.choices.model), composed.model)


def _compose(hydra: Hydra, name: str, overrides: list[str]) -> DictConfig:
    return hydra.compose_config(name, overrides, RunMode.RUN, with_log_configuration=False)


def without_hydra(composed: DictConfig) -> tuple[DictConfig, dict[str, str]]:
    """Return a job's config as the runner knows it, and the choice of each group, which only Hydra's half holds."""
    choices = {str(group): str(choice) for group, choice in composed.hydra.runtime.choices.items()}
    with read_write(composed), open_dict(composed):
        del composed["hydra"]
    return composed, choices


def to_config(composed: Any) -> RunnerConfig:
    """Turn the composed YAML into checked dataclasses; a key that was forced in with + is refused here."""
    config = OmegaConf.to_object(composed)
    assert isinstance(config, RunnerConfig)
    _refuse_extra("", composed, config)
    return config


def _refuse_extra(prefix: str, composed: Any, checked: object) -> None:
    known = schema_keys(checked)
    for key in map(str, composed):
        if key not in known:
            raise ConfigError(f"{prefix}{key}: {unknown('key', prefix + key, (prefix + name for name in known))}")
        if is_dataclass(getattr(checked, key)):
            _refuse_extra(f"{prefix}{key}.", composed[key], getattr(checked, key))


# -------------------------------------------------------------------------------------------------- errors


def explain(error: BaseException, conf: Path) -> str | None:
    """Return the one message for an error that a user can cause, or None for a bug."""
    if isinstance(error, RunnerError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _missing_config(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _from_cause(error, conf) or _first_lines(error)
    return None


def _unreadable(override: str) -> str:
    """Say what to type for an override that Hydra's grammar does not take."""
    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[+~]{0,2}[A-Za-z_][\w.@/-]*", key, re.ASCII):
        return f"{override}: this is no override: write KEY=VALUE or GROUP=CHOICE (all keys: --help)"
    fix = _in_quotes(key, value)
    return f"{override}: the value cannot be read: text with special characters needs quotes inside the shell's: {fix}"


def _in_quotes(key: str, value: str) -> str:
    return f"\"{key}='{value}'\"" if "'" not in value else f"'{key}=\"{value}\"'"


def _several(key: str, value: str) -> str:
    """Say what to type for several values where there is no grid."""
    kind = kinds().get(key, Kind())
    one = f". If it is one text, put it in quotes inside the shell's: {_in_quotes(key, value)}" if kind.text else ""
    one = f". If it is a list: {key}=[{value}]" if kind.is_list else one
    return f"{key}={value}: several values. To sweep over it, add --multirun (-m){one}"


def _missing_config(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if group in ("hydra/launcher", "hydra/sweeper") and choice in EXTRAS:
        install = f"pip install 'runner[{choice.partition('_')[0]}]'"
        return f"{group}={choice} comes in a package that is not installed here: {install}"
    if group and error.options:
        return unknown_choice(group, choice, error.options)
    return _first_lines(error)


def _from_cause(error: BaseException, conf: Path) -> str | None:
    """Find the override that does not fit in the chain of causes, and the reason."""
    text, cause = str(error), error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if match := re.match(r"Could not override '([^']+)'\. ?\nNo match in the defaults list", text):
        return unknown_key(match[1], conf)
    if match := re.match(r"Ambiguous value for argument '([^=]*)=(.*)'\n1\. ", text, re.DOTALL):
        return _several(match[1], match[2])
    found = re.search(r"(?:Error merging override|Could not override) '?([^\n]+?)'?\.?(?:\n|$)", text)
    written = found[1] if found else ""
    if isinstance(cause, ValidationError):
        return wrong_value(cause, written)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return unknown_key(cause.full_key or written, conf, cause.object_type)
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} has no value: give {cause.full_key}=..."
    return None


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:4]) or type(error).__name__

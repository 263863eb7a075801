"""`load`: from its arguments to a config, and from there to a model. Imports no MLflow, and Hydra when it is called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from runner.checkpoints.no_model import is_bare, nothing_to_load
from runner.checkpoints.resolve import resolve
from runner.config.choices import choices_for
from runner.config.messages import schema_keys
from runner.config.model import LocalModelConfig
from runner.config.root import NoTrackingConfig, RunnerConfig
from runner.config.task import TaskConfig
from runner.core import environment
from runner.core.console import say
from runner.core.errors import ConfigError, unknown
from runner.engines import open_engine
from runner.engines.driver import Driver
from runner.engines.kinds import kind_of
from runner.library.model import Model

Place = str | os.PathLike[str]
Choice = Place | Mapping[str, Any]  # a choice of a group, or {"name": choice} with keys of the group


@dataclass
class NoTask(TaskConfig):
    """A model is loaded to be asked, and no job is done."""

    name: ClassVar[str] = "load"


def load(
    model: Place | None = None,
    *,
    quantization: Choice | None = None,
    lora: Choice | None = None,
    rope: Choice | None = None,
    generation: Choice | None = None,
    seed: int = 0,
    **keys: Any,
) -> Model:
    """Load a model: a choice of the group `model` (embedded, if none is given), a folder, or a hub id.

    The groups take a choice, `quantization="nf4"`, or one with its keys, `rope={"name": "yarn", "factor": 4}`; `lora`
    also takes the place of an adapter. All other names are keys of the model group: device, dtype, attention,
    device_map, max_memory, threads, revision, trust_remote_code, ...
    """
    environment.read()
    groups = {"quantization": quantization, "lora": lora, "rope": rope, "generation": generation}
    config = configure(model, groups, keys, seed)
    resolved = resolve(config)
    kind_of(config.model).check(config, resolved)  # its notes come with the load's
    driver = Driver(open_engine(config, resolved))
    try:
        report = driver.loaded()
    except BaseException:  # Ctrl-C, too: the thread ends once the load has
        driver.stop()
        raise
    for note in report.notes:
        say(f"note: {note}")
    return Model(config, driver, report)


def configure(
    model: Place | None, groups: Mapping[str, Choice | None], keys: Mapping[str, Any], seed: int = 0
) -> RunnerConfig:
    """Return the config that the arguments of `load` describe, and the variables where these leave something open."""
    _refuse_unknown(keys, groups)
    from runner.compat.variable_overrides import variables_as_overrides
    from runner.config.compose import choose  # with Hydra, for which `from runner import load` does not wait

    said = {group: _said(group, given) for group, given in groups.items()} | {"model": _said_model(model, keys)}
    choices = {group: choice for group, (choice, _) in said.items() if choice}
    values = {f"{group}.{key}": value for group, (_, own) in said.items() for key, value in own.items()}
    asked = variables_as_overrides([f"{key}={value}" for key, value in (choices | values).items()])
    chosen = choose(said, choices, values, asked)
    return RunnerConfig(**chosen, task=NoTask(), tracking=NoTrackingConfig(), seed=seed)


def _refuse_unknown(keys: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
    """Refuse the misspelt name of a group; what is no key of the model is refused where that is chosen."""
    for key in keys.keys() - schema_keys(LocalModelConfig):
        said = unknown("argument of load", key, {*groups, "model", "seed"})
        if "Did you mean" in said:
            raise ConfigError(f"{key}={keys[key]}: {said}, and the keys of the model group")


def _said_model(model: Place | None, given: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return the choice of model and the keys that were given for it."""
    keys = {key: value for key, value in given.items() if value is not None}
    for key in keys.keys() & {"dtype", "device"}:
        keys[key] = str(keys[key]).removeprefix("torch.")  # torch's own objects will do
    name = None if model is None else os.fspath(model)
    if isinstance(model, str) and model not in choices_for("model") and is_bare(model):
        raise nothing_to_load(model)
    return (name, keys) if name is None or name in choices_for("model") else ("auto", {"name": name, **keys})


def _said(group: str, given: Choice | None) -> tuple[str | None, dict[str, Any]]:
    """Return the choice of a group, None where it is open, and the keys that were given for it."""
    if isinstance(given, Mapping):
        keys = {str(key): value for key, value in given.items()}
        path = keys.get("path") if group == "lora" else None
        return keys.pop("name", _format_of(path) if path else None), keys
    if given is None:
        return None, {}
    if not isinstance(given, str | os.PathLike):
        raise ConfigError(f'{group}={given!r}: give the name of a choice, or {{"name": CHOICE, KEY: VALUE}}')
    choice = os.fspath(given)
    is_place = group == "lora" and choice not in choices_for("lora")
    return (_format_of(choice), {"path": choice}) if is_place else (choice, {})


def _format_of(adapter: Place) -> str:
    """Return the choice that an adapter's place speaks of."""
    return "pth" if os.fspath(adapter).endswith(".pth") else "peft"

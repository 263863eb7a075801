"""`load`: from its arguments to a config and a model. It never imports MLflow, and imports Hydra
only when called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from runner.config.choices import choices_for
from runner.config.groups import schema_keys
from runner.config.resolved import resolve
from runner.config.root import NoTrackingConfig, RunnerConfig
from runner.config.task import TaskConfig
from runner.engines import open_engine
from runner.engines.kinds import kind_of
from runner.library.model import Model
from runner_base import ConfigError, environment, say, unknown
from runner_base.errors import nearest
from runner_engine import Driver, LocalModelConfig
from runner_engine.checkpoints import is_bare, is_gguf, nothing_to_load
from runner_engine.render.notes import render

Place = str | os.PathLike[str]
# a choice of a group, or {"name": choice} with keys of the group
Choice = Place | Mapping[str, Any]


@dataclass
class NoTask(TaskConfig):
    """The task of a model that is loaded from Python, without a job."""

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
    """Load a model: a choice of the group `model` (by default embedded), a folder, a .gguf file, or
    a hub id.

    The groups take a choice, `quantization="nf4"`, or one with its keys, `rope={"name": "yarn",
    "factor": 4}`; `lora` also takes the path or hub id of an adapter. All other names are keys of
    the model group: device, dtype, attention, device_map, max_memory, threads, revision,
    trust_remote_code, ...
    """
    environment.read()
    groups = {"quantization": quantization, "lora": lora, "rope": rope, "generation": generation}
    config = configure(model, groups, keys, seed)
    resolved = resolve(config)
    kind_of(config.model).check(resolved)  # the load reports the same notes
    driver = Driver(open_engine(resolved))
    try:
        report = driver.loaded()
    except BaseException:  # also Ctrl-C: the thread ends when the load has ended
        driver.stop()
        raise
    for note in report.notes:
        say(f"note: {render(note)}")
    return Model(resolved.config, driver, report)


def configure(
    model: Place | None, groups: Mapping[str, Choice | None], keys: Mapping[str, Any], seed: int = 0
) -> RunnerConfig:
    """Return the config of the arguments of `load`; variables apply to what these leave open."""
    _reject_unknown(keys, groups)
    # late: `from runner import load` need not import Hydra
    from runner.config.compose import choose
    from runner.config.variables import variables_as_overrides

    given = {group: _choice_and_keys(group, argument) for group, argument in groups.items()}
    given |= {"model": _model_choice_and_keys(model, keys)}
    if given["quantization"][0] is None and is_gguf(Path(given["model"][1].get("name", "")).expanduser()):
        # the only choice that reads such a file
        given["quantization"] = ("gguf", given["quantization"][1])
    choices = {group: choice for group, (choice, _) in given.items() if choice}
    values = {f"{group}.{key}": value for group, (_, own) in given.items() for key, value in own.items()}
    from_variables = variables_as_overrides([f"{key}={value}" for key, value in (choices | values).items()])
    chosen = choose(given, choices, values, from_variables)
    return RunnerConfig(**chosen, task=NoTask(), tracking=NoTrackingConfig(), seed=seed)


def _reject_unknown(keys: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
    """Reject misspelt names of groups; other names that are not keys of the model are rejected when
    it is chosen."""
    for key in keys.keys() - schema_keys(LocalModelConfig):
        names = sorted({*groups, "model", "seed"})
        if nearest(key, names):
            reason = unknown("argument of load", key, names)
            raise ConfigError(
                f"{reason}, and the keys of the model group", key=key, value=keys[key], code="unknown_choice"
            )


def _model_choice_and_keys(
    model: Place | None, given: Mapping[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """Return the model's choice and the keys that were given for it."""
    keys = {key: value for key, value in given.items() if value is not None}
    for key in keys.keys() & {"dtype", "device"}:
        keys[key] = str(keys[key]).removeprefix("torch.")  # torch's own objects are accepted
    name = None if model is None else os.fspath(model)
    if isinstance(model, str) and model not in choices_for("model") and is_bare(model):
        raise nothing_to_load(model)
    return (name, keys) if name is None or name in choices_for("model") else ("auto", {"name": name, **keys})


def _choice_and_keys(group: str, given: Choice | None) -> tuple[str | None, dict[str, Any]]:
    """Return a group's choice, None if none was given, and the keys that were given for it."""
    if isinstance(given, Mapping):
        keys = {str(key): value for key, value in given.items()}
        path = keys.get("path") if group == "lora" else None
        return keys.pop("name", _format_of(path) if path else None), keys
    if given is None:
        return None, {}
    if not isinstance(given, str | os.PathLike):
        raise ConfigError(
            'give the name of a choice, or {"name": CHOICE, KEY: VALUE}',
            key=group,
            value=f"{given!r}",
            code="bad_value",
        )
    choice = os.fspath(given)
    is_place = group == "lora" and choice not in choices_for("lora")
    return (_format_of(choice), {"path": choice}) if is_place else (choice, {})


def _format_of(adapter: Place) -> str:
    """Return the choice of the group `lora` that fits an adapter's path."""
    return "pth" if os.fspath(adapter).endswith(".pth") else "peft"

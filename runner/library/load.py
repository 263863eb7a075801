"""`load`: creates a config and a model from Python arguments. Never imports MLflow; imports Hydra
only when called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from runner.config.choices import list_choices
from runner.config.groups import schema_keys
from runner.config.resolved import resolve_job
from runner.config.root import NoTrackingConfig, RunnerConfig
from runner.config.task import TaskConfig
from runner.engines import open_engine
from runner.engines.kinds import model_kind
from runner.library.model import Model
from runner_base import ConfigError, environment, print_message, unknown_choice_message
from runner_base.errors import find_closest_names
from runner_engine import Driver, LocalModelConfig
from runner_engine.checkpoints import build_unknown_load_error, is_bare_model_name, is_gguf
from runner_engine.render.notes import render_engine_note

Place = str | os.PathLike[str]
# a choice of a group, or {"name": choice} with keys of the group
Choice = Place | Mapping[str, Any]


@dataclass
class NoTask(TaskConfig):
    """The task config of a model that is loaded from Python, without a job."""

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
    """Load a model: a choice of the group `model` (default: embedded), a folder, a .gguf file, or a
    Hub id.

    The groups take a choice, `quantization="nf4"`, or one with its keys,
    `rope={"name": "yarn", "factor": 4}`; `lora` also takes the path or Hub id of an adapter. All
    other names are keys of the model group: device, dtype, attention, device_map, max_memory,
    threads, revision, trust_remote_code, ...
    """
    environment.load_dotenv()
    groups = {"quantization": quantization, "lora": lora, "rope": rope, "generation": generation}
    config = build_config(model, groups, keys, seed)
    resolved = resolve_job(config)
    model_kind(config.model).check_job(resolved)  # the load reports the same notes
    driver = Driver(open_engine(resolved))
    try:
        report = driver.wait_until_loaded()
    except BaseException:  # also Ctrl-C: the thread ends when the load has ended
        driver.stop()
        raise
    for note in report.notes:
        print_message(f"note: {render_engine_note(note)}")
    return Model(resolved.config, driver, report)


def build_config(
    model: Place | None, groups: Mapping[str, Choice | None], keys: Mapping[str, Any], seed: int = 0
) -> RunnerConfig:
    """Return the config for the arguments of `load`. Environment variables apply to omitted arguments."""
    _reject_unknown_groups(keys, groups)
    # late: `from runner import load` need not import Hydra
    from runner.config.compose import build_groups
    from runner.config.variables import read_variable_overrides

    given = {group: _choice_and_keys(group, argument) for group, argument in groups.items()}
    given |= {"model": _model_choice_and_keys(model, keys)}
    if given["quantization"][0] is None and is_gguf(Path(given["model"][1].get("name", "")).expanduser()):
        # the only choice that reads such a file
        given["quantization"] = ("gguf", given["quantization"][1])
    choices = {group: choice for group, (choice, _) in given.items() if choice}
    values = {f"{group}.{key}": value for group, (_, own) in given.items() for key, value in own.items()}
    from_variables = read_variable_overrides([f"{key}={value}" for key, value in (choices | values).items()])
    chosen = build_groups(given, choices, values, from_variables)
    return RunnerConfig(**chosen, task=NoTask(), tracking=NoTrackingConfig(), seed=seed)


def _reject_unknown_groups(keys: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
    """Reject misspelt group names. Other names that are no model keys are rejected when the model is
    chosen.
    """
    for key in keys.keys() - schema_keys(LocalModelConfig):
        names = sorted({*groups, "model", "seed"})
        if find_closest_names(key, names):
            reason = unknown_choice_message("argument of load", key, names)
            raise ConfigError(
                f"{reason}, and the keys of the model group", key=key, value=keys[key], code="unknown_choice"
            )


def _model_choice_and_keys(
    model: Place | None, arguments: Mapping[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    keys = {key: value for key, value in arguments.items() if value is not None}
    for key in keys.keys() & {"dtype", "device"}:
        keys[key] = str(keys[key]).removeprefix("torch.")  # torch's own objects are accepted
    name = None if model is None else os.fspath(model)
    if isinstance(model, str) and model not in list_choices("model") and is_bare_model_name(model):
        raise build_unknown_load_error(model)
    return (name, keys) if name is None or name in list_choices("model") else ("auto", {"name": name, **keys})


def _choice_and_keys(group: str, argument: Choice | None) -> tuple[str | None, dict[str, Any]]:
    """Return a group's choice (None if omitted) and its keys."""
    if isinstance(argument, Mapping):
        keys = {str(key): value for key, value in argument.items()}
        path = keys.get("path") if group == "lora" else None
        return keys.pop("name", _adapter_choice(path) if path else None), keys
    if argument is None:
        return None, {}
    if not isinstance(argument, str | os.PathLike):
        raise ConfigError(
            'give the name of a choice, or {"name": CHOICE, KEY: VALUE}',
            key=group,
            value=f"{argument!r}",
            code="bad_value",
        )
    choice = os.fspath(argument)
    is_place = group == "lora" and choice not in list_choices("lora")
    return (_adapter_choice(choice), {"path": choice}) if is_place else (choice, {})


def _adapter_choice(adapter: Place) -> str:
    """Return the choice of the group `lora` that fits an adapter's path."""
    return "pth" if os.fspath(adapter).endswith(".pth") else "peft"

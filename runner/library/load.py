"""Python function `load`, which loads a model from Python arguments. MLflow is never imported."""

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
from runner.engines import create_lazy_engine
from runner.engines.kinds import get_model_kind
from runner.library.model import Model
from runner_base import ConfigError, environment, format_unknown_choice_message, print_message
from runner_base.errors import find_closest_names
from runner_engine import Driver, LocalModelConfig
from runner_engine.checkpoints import build_unknown_load_error, is_bare_model_name, is_gguf_file
from runner_engine.render.notes import render_engine_note

NameOrPath = str | os.PathLike[str]
# a choice of a group, or {"name": choice} with keys of the group
ChoiceOrKeys = NameOrPath | Mapping[str, Any]


@dataclass
class NoTask(TaskConfig):
    """Placeholder task config for a model that Python code loads without a job."""

    name: ClassVar[str] = "load"


def load(
    model: NameOrPath | None = None,
    *,
    quantization: ChoiceOrKeys | None = None,
    lora: ChoiceOrKeys | None = None,
    rope: ChoiceOrKeys | None = None,
    generation: ChoiceOrKeys | None = None,
    seed: int = 0,
    **keys: Any,
) -> Model:
    """Load a model. `model` is a choice of the config group `model`, a folder, a .gguf file, or a Hub id.

    The default is the embedded model.

    The groups take a choice, `quantization="nf4"`, or one with its keys,
    `rope={"name": "yarn", "factor": 4}`; `lora` also takes the path or Hub id of an adapter. All
    other names are keys of the model group: device, dtype, attention, device_map, max_memory,
    threads, revision, trust_remote_code, ...
    """
    environment.load_dotenv()
    groups = {"quantization": quantization, "lora": lora, "rope": rope, "generation": generation}
    config = build_load_config(model, groups, keys, seed)
    resolved = resolve_job(config)
    get_model_kind(config.model).check_job(resolved)  # the load reports the same notes
    driver = Driver(create_lazy_engine(resolved))
    try:
        report = driver.wait_until_loaded()
    except BaseException:  # also Ctrl-C: the thread ends when the load has ended
        driver.stop()
        raise
    for note in report.notes:
        print_message(f"note: {render_engine_note(note)}")
    return Model(resolved.config, driver, report)


def build_load_config(
    model: NameOrPath | None,
    group_arguments: Mapping[str, ChoiceOrKeys | None],
    model_keys: Mapping[str, Any],
    seed: int = 0,
) -> RunnerConfig:
    """Build the config for the arguments of `load`. Environment variables set what the arguments omit."""
    _reject_unknown_groups(model_keys, group_arguments)
    # late: `from runner import load` need not import Hydra
    from runner.config.compose import build_group_configs
    from runner.config.variables import read_variable_overrides

    given = {group: _split_choice_and_keys(group, argument) for group, argument in group_arguments.items()}
    given |= {"model": _derive_model_choice_and_keys(model, model_keys)}
    if given["quantization"][0] is None and is_gguf_file(
        Path(given["model"][1].get("name", "")).expanduser()
    ):
        # the only choice that reads such a file
        given["quantization"] = ("gguf", given["quantization"][1])
    choices = {group: choice for group, (choice, _) in given.items() if choice}
    values = {f"{group}.{key}": value for group, (_, own) in given.items() for key, value in own.items()}
    from_variables = read_variable_overrides([f"{key}={value}" for key, value in (choices | values).items()])
    chosen = build_group_configs(given, choices, values, from_variables)
    return RunnerConfig(**chosen, task=NoTask(), tracking=NoTrackingConfig(), seed=seed)


def _reject_unknown_groups(model_keys: Mapping[str, Any], group_arguments: Mapping[str, Any]) -> None:
    """Raise an error if an argument looks like a misspelt config group."""
    for key in model_keys.keys() - schema_keys(LocalModelConfig):
        names = sorted({*group_arguments, "model", "seed"})
        if find_closest_names(key, names):
            reason = format_unknown_choice_message("argument of load", key, names)
            raise ConfigError(
                f"{reason}. Keys of the config group model are also accepted",
                key=key,
                value=model_keys[key],
                code="unknown_choice",
            )


def _derive_model_choice_and_keys(
    model: NameOrPath | None, arguments: Mapping[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    keys = {key: value for key, value in arguments.items() if value is not None}
    for key in keys.keys() & {"dtype", "device"}:
        keys[key] = str(keys[key]).removeprefix("torch.")  # torch's own objects are accepted
    name = None if model is None else os.fspath(model)
    if isinstance(model, str) and model not in list_choices("model") and is_bare_model_name(model):
        raise build_unknown_load_error(model)
    return (name, keys) if name is None or name in list_choices("model") else ("auto", {"name": name, **keys})


def _split_choice_and_keys(group: str, argument: ChoiceOrKeys | None) -> tuple[str | None, dict[str, Any]]:
    if isinstance(argument, Mapping):
        keys = {str(key): value for key, value in argument.items()}
        path = keys.get("path") if group == "lora" else None
        return keys.pop("name", _find_adapter_choice(path) if path else None), keys
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
    return (_find_adapter_choice(choice), {"path": choice}) if is_place else (choice, {})


def _find_adapter_choice(adapter_path: NameOrPath) -> str:
    return "pth" if os.fspath(adapter_path).endswith(".pth") else "peft"

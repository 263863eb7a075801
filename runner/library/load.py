"""`load`: from its arguments to a config, and from there to a model. Imports neither Hydra nor MLflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from runner.checkpoints.resolve import resolve
from runner.config.choices import choices_for, choose
from runner.config.messages import schema_keys
from runner.config.model import LocalModelConfig
from runner.config.root import RunnerConfig, TrackingConfig
from runner.config.task import TaskConfig
from runner.core.errors import ConfigError, unknown
from runner.engines import open_engine
from runner.engines.driver import Driver
from runner.engines.kinds import kind_of
from runner.library.model import Model

Place = str | os.PathLike[str]
Choice = Place | Mapping[str, Any]  # a choice of a group, or {"name": choice} with keys of the group
PLAIN = {"quantization": "none", "lora": "none", "rope": "native", "generation": "greedy"}


def load(
    model: Place = "embedded",
    *,
    quantization: Choice = "none",
    lora: Choice = "none",
    rope: Choice = "native",
    generation: Choice = "greedy",
    seed: int = 0,
    **keys: Any,
) -> Model:
    """Load a model: a choice of the group `model`, a folder, or a hub id.

    The groups take a choice, `quantization="nf4"`, or one with its keys, `rope={"name": "yarn", "factor": 4}`; `lora`
    also takes the place of an adapter. All other names are keys of the model group: device, dtype, attention,
    device_map, max_memory, threads, revision, trust_remote_code, ...
    """
    groups = {"quantization": quantization, "lora": lora, "rope": rope, "generation": generation}
    config = configure(os.fspath(model), groups, keys, seed)
    resolved = resolve(config)
    kind_of(config.model).check(config, resolved)
    driver = Driver(open_engine(config, resolved=resolved))
    try:
        return Model(config, driver, driver.loaded())
    except BaseException:  # Ctrl-C, too: the thread ends once the load has
        driver.stop()
        raise


def configure(model: str, groups: Mapping[str, Choice], keys: Mapping[str, Any], seed: int = 0) -> RunnerConfig:
    """Return the config that the arguments of `load` describe."""
    choice, keys = (model, dict(keys)) if model in choices_for("model") else ("auto", {"name": model, **keys})
    for key in keys.keys() & {"dtype", "device"}:
        keys[key] = str(keys[key]).removeprefix("torch.")  # torch's own objects will do
    _refuse_unknown(keys, groups)
    return RunnerConfig(
        model=choose("model", choice, keys),
        **{group: _chosen(group, given) for group, given in groups.items()},
        task=TaskConfig("load"),
        tracking=TrackingConfig(name="none"),
        seed=seed,
    )


def _refuse_unknown(keys: Mapping[str, Any], groups: Mapping[str, Choice]) -> None:
    """Refuse the misspelt name of a group; what is no key of the model is refused where that is chosen."""
    names = {*groups, "model", "seed"}
    for key in keys.keys() - schema_keys(LocalModelConfig):
        said = unknown("argument of load", key, names)
        if "Did you mean" in said:
            raise ConfigError(f"{key}={keys[key]}: {said}, and the keys of the model group")


def _chosen(group: str, given: Choice) -> Any:
    """Return a group's config from what was given for it."""
    if isinstance(given, Mapping):
        keys = {str(key): value for key, value in given.items()}
        path = keys.get("path") if group == "lora" else None
        return choose(group, str(keys.pop("name", None) or (_format_of(path) if path else PLAIN[group])), keys)
    if not isinstance(given, Place):
        raise ConfigError(f'{group}={given!r}: give the name of a choice, or {{"name": CHOICE, KEY: VALUE}}')
    choice = os.fspath(given)
    if group == "lora" and choice not in choices_for("lora"):
        return choose("lora", _format_of(choice), {"path": choice})
    return choose(group, choice, {})


def _format_of(adapter: Place) -> str:
    """Return the choice that an adapter's place speaks of."""
    return "pth" if os.fspath(adapter).endswith(".pth") else "peft"

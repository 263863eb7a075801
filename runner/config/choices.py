"""A group's choice without Hydra: the same YAML, the same schema and the same messages as on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from runner.config.groups import GROUPS
from runner.config.messages import unknown_choice, unknown_key, wrong_value
from runner.config.variables import Chosen
from runner.core.errors import ConfigError

HERE = Path(__file__).resolve().parents[1]
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # in a wheel, or in a checkout


def choices_for(group: str) -> list[str]:
    """Return the names of a group's choices."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def choose(group: str, choice: str, keys: Mapping[str, Any]) -> Any:
    """Return the checked dataclass of a group's choice with these of its keys set."""
    schema, values = _read(group, choice)
    root, written = OmegaConf.create({group: OmegaConf.structured(schema)}), f"{group}={choice}"
    try:
        for key, value in {**values, **keys}.items():
            written = f"{group}.{key}={value}"
            OmegaConf.update(root, f"{group}.{key}", value)
        built: Any = OmegaConf.to_object(root)
        return built[group]
    except (ConfigAttributeError, ConfigKeyError) as error:
        raise ConfigError(unknown_key(written.partition("=")[0], CONF, schema)) from error
    except ValidationError as error:
        raise ConfigError(wrong_value(error, written)) from error
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value: give {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{written}: {str(error).splitlines()[0]}") from error


def described(choice: str) -> Chosen:
    """Return what there is to be said of a choice of model."""
    schema, values = _read("model", choice)
    return of_model(choice, OmegaConf.merge(OmegaConf.structured(schema), values))


def of_model(choice: str, node: Any) -> Chosen:
    """Return what there is to be said of a model's composed keys."""
    inner = {f"{key}.{below}" for key in node if isinstance(node._get_node(key), DictConfig) for below in node[key]}
    is_named = not OmegaConf.is_missing(node, "name") and bool(node.name)
    return Chosen(choice, frozenset({*map(str, node), *inner}), is_named)


def _read(group: str, choice: str) -> tuple[type[Any], dict[str, Any]]:
    """Return a choice's schema and the values in its YAML."""
    options = choices_for(group)
    if choice not in options:
        raise ConfigError(unknown_choice(group, choice, options))
    values: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{choice}.yaml"))
    named = re.match(r"/hydra/schema/\w+/(\w+)@_here_", str(values.pop("defaults")[0]))
    assert named is not None, f"conf/{group}/{choice}.yaml does not begin with its schema"
    return GROUPS[group][named[1]], values

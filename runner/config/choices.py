"""A group's choice without Hydra: the same YAML, the same schema and the same messages as on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from omegaconf.errors import ValidationError as WrongValue

from runner.config.groups import GROUPS
from runner.config.messages import unknown_choice, unknown_key, wrong_value
from runner.core.errors import ConfigError

HERE = Path(__file__).resolve().parents[1]
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # in a wheel, or in a checkout


def choices_for(group: str) -> list[str]:
    """Return the names of a group's choices."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def choose(group: str, choice: str, keys: Mapping[str, Any]) -> Any:
    """Return the checked dataclass of a group's choice with these of its keys set."""
    options = choices_for(group)
    if choice not in options:
        raise ConfigError(unknown_choice(group, choice, options))
    values: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{choice}.yaml"))  # type: ignore[assignment]
    named = re.match(r"/hydra/schema/\w+/(\w+)@_here_", str(values.pop("defaults")[0]))
    assert named is not None, f"conf/{group}/{choice}.yaml does not begin with its schema"
    schema = GROUPS[group][named[1]]
    root = OmegaConf.create({group: OmegaConf.structured(schema)})
    written = f"{group}={choice}"
    try:
        for key, value in {**values, **keys}.items():
            written = f"{group}.{key}={value}"
            OmegaConf.update(root, f"{group}.{key}", value)
        built: Any = OmegaConf.to_object(root)
        return built[group]
    except (ConfigAttributeError, ConfigKeyError) as error:
        raise ConfigError(unknown_key(written.partition("=")[0], CONF, schema)) from error
    except WrongValue as error:
        raise ConfigError(wrong_value(error, written)) from error
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value: give {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{written}: {str(error).splitlines()[0]}") from error

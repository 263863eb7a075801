"""Data sets by name: dataset/NAME.yaml in conf/, or in a folder of the user's own (-cd FOLDER, hydra.searchpath).

Such a file holds keys of the task: where the data are, how a row is read and how it is put. In conf/task/ these keys
are `${data_set:KEY}`: what the file of task.data says, else the schema's own value. Whoever sets a key wins over both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import ValidationError

from runner.config.choices import CONF
from runner.config.messages import wrong_value
from runner.config.task import Gold, QuestionsConfig
from runner.core.errors import ConfigError, unknown

GROUP = "dataset"
NAME = re.compile(r"[A-Za-z0-9_-]+")
EMBEDDED = "embedded"  # a name that no folder hides
LOOKED_UP = "${data_set:"
PLACES = ("data", "shots_data")
KEYS = (
    *("data", "subset", "split", "question_key", "answer_key", "choices_key", "gold", "gold_after"),
    *("prompt", "template", "system", "instruction", "shots", "shots_data", "shots_split", "extractor"),
)


@dataclass(frozen=True)
class DataSet:
    """What the file of a data set says."""

    where: str
    keys: dict[str, Any]


def names(root: Any = None) -> list[str]:
    """Return the names of all data sets that a config can see."""
    sources = [source for source in _sources(root) if source.is_group(GROUP)]
    return sorted({name for source in sources for name in source.list(GROUP, ObjectType.CONFIG)})


def find(data: str, root: Any = None) -> DataSet | None:
    """Return the data set that task.data names; None where it is a place: a file, a folder or an id of the hub."""
    if not NAME.fullmatch(data) or (data != EMBEDDED and Path(data).exists()):
        return None
    for source in _sources(root):
        if source.is_config(f"{GROUP}/{data}"):
            is_file = source.scheme() == "file"
            file = Path(source.path, GROUP, f"{data}.yaml") if is_file else None
            return _read(type(source), source.path, data, file.stat().st_mtime_ns if file else 0)
    return None


def look_up(key: str, *, _parent_: DictConfig, _root_: DictConfig) -> Any:
    """Return what the data set of a task says of a key, else what the task's schema does: `${data_set:KEY}`."""
    found = find(str(_parent_.data), _root_)
    return found.keys[key] if found and key in found.keys else _usual(_parent_, key)


def settle(composed: DictConfig) -> None:
    """Write what the data set of a job says into its config, with the place of the data instead of their name."""
    task = composed._get_node("task")
    if not isinstance(task, DictConfig) or task._is_missing() or task._is_interpolation():
        return
    schema: Any = OmegaConf.get_type(task)
    if not (isinstance(schema, type) and issubclass(schema, QuestionsConfig)):
        return
    found = find(str(task.data), composed)
    if found is None and NAME.fullmatch(task.data) and not Path(task.data).exists():
        what = unknown("data set", task.data, names(composed))
        raise ConfigError(f"task.data={task.data}: {what}; and there is no file or folder {Path(task.data).absolute()}")
    keys = found.keys if found else {}
    with read_write(composed):
        for key in [key for key in map(str, task) if _is_looked_up(task, key)]:
            try:
                task[key] = keys[key] if key in keys else _usual(task, key)
            except ValidationError as error:
                raise ConfigError(
                    f"{found.where if found else ''}: {wrong_value(error, f'{key}={keys[key]}')}"
                ) from error
        task.data = keys.get("data", task.data)


def _is_looked_up(task: DictConfig, key: str) -> bool:
    node: Any = task._get_node(key)
    return node is not None and node._is_interpolation() and str(node._value()).startswith(LOOKED_UP)


def _usual(task: DictConfig, key: str) -> Any:
    """Return the schema's own value of a key; those who are asked for a letter are not told to end with a number."""
    schema: Any = OmegaConf.get_type(task)
    usual: Any = next(item.default for item in fields(schema) if item.name == key)
    if key == "instruction" and (task.choices_key is not None or task.gold is Gold.letter):
        return usual.replace("number", "letter")
    return usual


def _sources(root: Any) -> Iterator[ConfigSource]:
    """Yield the folders that Hydra composes from, the user's own first; without Hydra's half of a config, conf/."""
    hydra = root.hydra if isinstance(root, DictConfig) and "hydra" in root else None
    if hydra is None and HydraConfig.initialized():
        hydra = HydraConfig.get()
    listed = [(it.schema, it.path) for it in hydra.runtime.config_sources] if hydra else [("file", str(CONF))]
    for scheme, path in listed:
        source = SourcesRegistry.instance().resolve(scheme)("", f"{scheme}://{path}")
        if source.available():
            yield source


@lru_cache(maxsize=64)  # a grid asks for the same few again and again
def _read(kind: type[ConfigSource], path: str, name: str, _stamp: int) -> DataSet:
    source = kind("", f"{kind.scheme()}://{path}")
    where = f"{path}/{GROUP}/{name}.yaml"
    content: Any = OmegaConf.to_container(source.load_config(f"{GROUP}/{name}").config)
    if not isinstance(content, dict) or not isinstance(content.get("data"), str):
        raise ConfigError(f"{where}: the file of a data set says where it is: data: FILE, FOLDER or an id of the hub")
    for key in content:
        if key not in KEYS:
            raise ConfigError(f"{where}: {unknown('key of a data set', str(key), KEYS)}")
    for key in PLACES:  # beside the file, which is often read from elsewhere
        if str(content.get(key, "")).startswith("."):
            content[key] = str(Path(path, GROUP, content[key]).absolute())
    return DataSet(where, content)

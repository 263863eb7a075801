"""Data sets by name: dataset/NAME.yaml in conf/, or in a folder of the user's own (-cd FOLDER,
hydra.searchpath).

Such a file holds keys of the task: where the data are, how a row is read and how a question is
worded. In conf/task/ these keys are `${data_set:KEY}`: the value in the file that task.data names,
else the schema's default. An explicit key has precedence over both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import ValidationError

from runner.config.choices import CONF
from runner.config.extractors import Extractor, Gold
from runner.config.groups import GROUPS
from runner.config.questions import EMBEDDED, QuestionsConfig
from runner.config.sources import source_at
from runner.config.wording import FOR_EXPRESSIONS, for_letters
from runner_base import ConfigError, unknown
from runner_engine import LocalModelConfig

GROUP = "dataset"
NAME = re.compile(r"[A-Za-z0-9_-]+")
TEXTS = "texts"  # what a model is scored on that was not trained on the embedded problems
INTERPOLATION = "${data_set:"
PATH_KEYS = ("data", "shots_data")
KEYS = (
    *(
        "data",
        "subset",
        "split",
        "question_key",
        "answer_key",
        "choices_key",
        "choices_seed",
        "gold",
        "gold_after",
        "cluster",
    ),
    *(
        "prompt",
        "template",
        "system",
        "instruction",
        "shots",
        "shots_data",
        "shots_split",
        "extractor",
        "scorer",
    ),
)


@dataclass(frozen=True)
class DataSet:
    """The content of a data set's file."""

    where: str  # the file, for messages
    keys: dict[str, Any]


def names(root: Any = None) -> list[str]:
    """Return the names of all data sets in the folders that a config is composed from."""
    sources = [source for source in _sources(root) if source.is_group(GROUP)]
    return sorted({name for source in sources for name in source.list(GROUP, ObjectType.CONFIG)})


def find(data: str, root: Any = None) -> DataSet | None:
    """Return the data set that task.data names; None where it is a file, a folder or an id of the
    hub."""
    if not NAME.fullmatch(data) or (data != EMBEDDED and Path(data).exists()):
        return None
    for source in _sources(root):
        if source.is_config(f"{GROUP}/{data}"):
            is_file = source.scheme() == "file"
            file = Path(source.path, GROUP, f"{data}.yaml") if is_file else None
            return _read(type(source), source.path, data, file.stat().st_mtime_ns if file else 0)
    return None


def look_up(key: str, *, _parent_: DictConfig, _root_: DictConfig) -> Any:
    """Return a key's value from the data set of a task, else its default in the task's schema:
    `${data_set:KEY}`.

    `${data_set:data}` is the data set itself where none is named.
    """
    if key == "data":
        return _usual(_root_)
    keys = _keys_for(_parent_, find(str(_parent_.data), _root_))
    return keys[key] if key in keys else _default(_parent_, key)


def _usual(root: DictConfig) -> str:
    """Return the data set of a model without another: the embedded one knows its own problems
    only."""
    model, schema = root._get_node("model"), OmegaConf.get_type(root, "model")
    is_local = isinstance(schema, type) and issubclass(schema, LocalModelConfig)
    name = model._get_node("name") if is_local and isinstance(model, DictConfig) else None
    return TEXTS if name is not None and str(name) != EMBEDDED else EMBEDDED


def apply_data_set(composed: DictConfig) -> None:
    """Write the keys of a job's data set into its config, with the location of the data instead of
    the name."""
    task = composed._get_node("task")
    if not isinstance(task, DictConfig) or task._is_missing() or task._is_interpolation():
        return
    schema: Any = OmegaConf.get_type(task)
    if key := getattr(schema, "data_sets_key", ""):
        _locate(task, key, composed)
    if not (isinstance(schema, type) and issubclass(schema, QuestionsConfig)):
        return
    data_set = find(str(task.data), composed)
    if data_set is None and NAME.fullmatch(task.data) and not Path(task.data).exists():
        problem = unknown("data set", task.data, names(composed))
        path = Path(task.data).absolute()
        raise ConfigError(
            f"{problem}; and there is no file or folder {path}",
            key="task.data",
            value=task.data,
            code="unknown_choice",
        )
    keys = _keys_for(task, data_set)
    with read_write(composed):
        looked_up = [key for key in map(str, task) if _is_looked_up(task, key)]
        for key in sorted(
            looked_up, key=lambda key: key == "instruction"
        ):  # last: it asks for what the others are
            try:
                OmegaConf.update(task, key, keys[key] if key in keys else _default(task, key), merge=False)
            except ValidationError as error:
                from runner.config.messages import wrong_value  # most files need no message

                wrong = wrong_value(error, f"{key}={keys[key]}")
                if data_set is not None:  # whose file has the value
                    wrong = ConfigError(str(wrong), key=data_set.where, code=wrong.code)
                raise wrong from error
        task.data = keys.get("data", task.data)


def _keys_for(task: DictConfig, data_set: DataSet | None) -> dict[str, Any]:
    """Return the keys that a data set's file sets for a task.

    A shipped file sets `cluster` only for verdicts: its clusters are too few to compare
    likelihoods, and task.early_stop_vs rejects clusters.
    """
    if data_set is None:
        return {}
    schema: Any = OmegaConf.get_type(task)
    uses_clusters = schema.gives_verdicts and task.get("early_stop_vs") is None
    if uses_clusters or not _is_shipped(data_set):
        return data_set.keys
    return {key: value for key, value in data_set.keys.items() if key != "cluster"}


def _is_shipped(data_set: DataSet) -> bool:
    """Whether a data set's file comes with the runner."""
    return data_set.where.startswith(f"{CONF}/")


def _locate(task: DictConfig, key: str, root: DictConfig) -> None:
    """Write the locations of a user's own data sets in place of their names, which only a process
    that composes can look up."""
    located = []
    for name in map(str, task[key]):
        data_set = find(name, root)
        is_own = data_set is not None and not _is_shipped(data_set)
        located.append(str(data_set.keys["data"]) if data_set and is_own else name)
    with read_write(root):
        task[key] = located


def _is_looked_up(task: DictConfig, key: str) -> bool:
    node: Any = task._get_node(key)
    return node is not None and node._is_interpolation() and str(node._value()).startswith(INTERPOLATION)


def _default(task: DictConfig, key: str) -> Any:
    """Return a key's default in the schema; the instruction asks for what the answers are."""
    schema: Any = OmegaConf.get_type(task)
    default: Any = next(item.default for item in fields(schema) if item.name == key)
    if key == "instruction" and (task.choices_key is not None or task.gold is Gold.letter):
        return for_letters(default)
    if key == "instruction" and (task.gold is Gold.expression or task.get("extractor") is Extractor.math):
        return FOR_EXPRESSIONS
    return default


def _sources(root: Any) -> Iterator[ConfigSource]:
    """Yield the folders that Hydra composes from, the user's own first; only conf/ if the config
    lacks Hydra's half."""
    hydra = root.hydra if isinstance(root, DictConfig) and "hydra" in root else None
    if hydra is None and HydraConfig.initialized() and {*GROUPS} <= {*HydraConfig.get().runtime.choices}:
        hydra = HydraConfig.get()  # not that of a program which uses Hydra for itself
    listed = (
        [(config_source.schema, config_source.path) for config_source in hydra.runtime.config_sources]
        if hydra
        else [("file", str(CONF))]
    )
    for scheme, path in listed:
        source = source_at(scheme, path)
        if source.available():
            yield source


@lru_cache(maxsize=64)  # a grid reads the same few again and again
def _read(kind: type[ConfigSource], path: str, name: str, _stamp: int) -> DataSet:
    source = kind("", f"{kind.scheme()}://{path}")
    where = f"{path}/{GROUP}/{name}.yaml"
    content: Any = OmegaConf.to_container(source.load_config(f"{GROUP}/{name}").config)
    if not isinstance(content, dict) or not isinstance(content.get("data"), str):
        raise ConfigError(
            "the file of a data set needs its location: data: FILE, FOLDER or an id of the hub",
            key=where,
            code="missing",
        )
    for key in content:
        if key not in KEYS:
            raise ConfigError(unknown("key of a data set", str(key), KEYS), key=where, code="unknown_choice")
    for key in PATH_KEYS:  # relative to the file, since the working directory is often another
        if str(content.get(key, "")).startswith("."):
            content[key] = str(Path(path, GROUP, content[key]).absolute())
    return DataSet(where, content)

"""Finds named data sets: dataset/NAME.yaml in conf/ or in the user's config folder.

Such a file holds keys of the task: where the data are, how a row is read and how a question is
worded. In conf/task/ these keys are `${data_set:KEY}`: the value in the file that task.data
names, else the schema's default. An explicit key has precedence over both.
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
from runner.config.extractors import Extractor, GoldKind
from runner.config.groups import GROUPS
from runner.config.questions import EMBEDDED, QuestionsConfig
from runner.config.sources import create_config_source
from runner.config.wording import FOR_EXPRESSIONS, default_letter_instruction
from runner_base import ConfigError, format_unknown_choice_message
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
        "answer_type",
        "answer_marker",
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
class DataSetFile:
    """The parsed content of a data set's YAML file, dataset/NAME.yaml."""

    where: str  # the file, for messages
    keys: dict[str, Any]


def list_data_set_names(root_config: Any = None) -> list[str]:
    """Return the names of all data sets in conf/ and in the user's config folders."""
    sources = [source for source in _iterate_config_sources(root_config) if source.is_group(GROUP)]
    return sorted({name for source in sources for name in source.list(GROUP, ObjectType.CONFIG)})


def find_data_set(data_name: str, root_config: Any = None) -> DataSetFile | None:
    """Return the named data set. None if task.data names a file, a folder or a Hub id."""
    if not NAME.fullmatch(data_name) or (data_name != EMBEDDED and Path(data_name).exists()):
        return None
    for source in _iterate_config_sources(root_config):
        if source.is_config(f"{GROUP}/{data_name}"):
            is_file = source.scheme() == "file"
            file = Path(source.path, GROUP, f"{data_name}.yaml") if is_file else None
            return _read_cached_data_set_file(
                type(source), source.path, data_name, file.stat().st_mtime_ns if file else 0
            )
    return None


def resolve_data_set_key(key: str, *, _parent_: DictConfig, _root_: DictConfig) -> Any:
    """Resolve `${data_set:KEY}` to the data set's value for the key, or to the schema's default.

    `${data_set:data}` is the data set itself where none is named.
    """
    if key == "data":
        return _get_default_data_set_name(_root_)
    keys = _select_applicable_data_set_keys(_parent_, find_data_set(str(_parent_.data), _root_))
    return keys[key] if key in keys else _get_schema_default(_parent_, key)


def _get_default_data_set_name(root_config: DictConfig) -> str:
    model, schema = root_config._get_node("model"), OmegaConf.get_type(root_config, "model")
    is_local = isinstance(schema, type) and issubclass(schema, LocalModelConfig)
    name = model._get_node("name") if is_local and isinstance(model, DictConfig) else None
    return TEXTS if name is not None and str(name) != EMBEDDED else EMBEDDED


def set_task_keys_from_data_set(composed: DictConfig) -> None:
    """Copy the values in the named data set's YAML file to the task config. task.data becomes the
    location of the data.
    """
    task = composed._get_node("task")
    if not isinstance(task, DictConfig) or task._is_missing() or task._is_interpolation():
        return
    schema: Any = OmegaConf.get_type(task)
    if key := getattr(schema, "data_sets_key", ""):
        _resolve_user_data_set_names(task, key, composed)
    if not (isinstance(schema, type) and issubclass(schema, QuestionsConfig)):
        return
    data_set = find_data_set(str(task.data), composed)
    if data_set is None and NAME.fullmatch(task.data) and not Path(task.data).exists():
        problem = format_unknown_choice_message("data set", task.data, list_data_set_names(composed))
        path = Path(task.data).absolute()
        raise ConfigError(
            f"{problem}; the file or folder {path} does not exist",
            key="task.data",
            value=task.data,
            code="unknown_choice",
        )
    keys = _select_applicable_data_set_keys(task, data_set)
    with read_write(composed):
        looked_up = [key for key in map(str, task) if _is_data_set_interpolation(task, key)]
        for key in sorted(
            looked_up, key=lambda key: key == "instruction"
        ):  # last: it asks for what the others are
            try:
                OmegaConf.update(
                    task, key, keys[key] if key in keys else _get_schema_default(task, key), merge=False
                )
            except ValidationError as error:
                from runner.config.messages import (
                    make_invalid_override_value_error,  # most files need no message
                )

                wrong = make_invalid_override_value_error(error, f"{key}={keys[key]}")
                if data_set is not None:  # whose file has the value
                    wrong = ConfigError(str(wrong), key=data_set.where, code=wrong.code)
                raise wrong from error
        task.data = keys.get("data", task.data)


def _select_applicable_data_set_keys(task: DictConfig, data_set: DataSetFile | None) -> dict[str, Any]:
    """Return the task keys that a data set's YAML file sets, with their values.

    An included file sets `cluster` only for verdicts: its clusters are too few to compare
    likelihoods, and task.early_stop_vs rejects clusters.
    """
    if data_set is None:
        return {}
    schema: Any = OmegaConf.get_type(task)
    uses_clusters = schema.gives_verdicts and task.get("early_stop_vs") is None
    if uses_clusters or not _is_installed_data_set(data_set):
        return data_set.keys
    return {key: value for key, value in data_set.keys.items() if key != "cluster"}


def _is_installed_data_set(data_set: DataSetFile) -> bool:
    return data_set.where.startswith(f"{CONF}/")


def _resolve_user_data_set_names(task: DictConfig, key: str, root_config: DictConfig) -> None:
    """Replace the names of the user's own data sets in the task config by the locations of their files.

    Worker processes do not know the user's config folders.
    """
    located = []
    for name in map(str, task[key]):
        data_set = find_data_set(name, root_config)
        is_own = data_set is not None and not _is_installed_data_set(data_set)
        located.append(str(data_set.keys["data"]) if data_set and is_own else name)
    with read_write(root_config):
        task[key] = located


def _is_data_set_interpolation(task: DictConfig, key: str) -> bool:
    node: Any = task._get_node(key)
    return node is not None and node._is_interpolation() and str(node._value()).startswith(INTERPOLATION)


def _get_schema_default(task: DictConfig, key: str) -> Any:
    schema: Any = OmegaConf.get_type(task)
    default: Any = next(item.default for item in fields(schema) if item.name == key)
    if key == "instruction" and (task.choices_key is not None or task.answer_type is GoldKind.letter):
        return default_letter_instruction(default)
    if key == "instruction" and (
        task.answer_type is GoldKind.expression or task.get("extractor") is Extractor.math
    ):
        return FOR_EXPRESSIONS
    return default


def _iterate_config_sources(root_config: Any) -> Iterator[ConfigSource]:
    """Yield Hydra's config sources, the user's own folders first. Without a Hydra config, yield
    only conf/.
    """
    hydra = root_config.hydra if isinstance(root_config, DictConfig) and "hydra" in root_config else None
    if hydra is None and HydraConfig.initialized() and {*GROUPS} <= {*HydraConfig.get().runtime.choices}:
        hydra = HydraConfig.get()  # not that of a program which uses Hydra for itself
    listed = (
        [(config_source.schema, config_source.path) for config_source in hydra.runtime.config_sources]
        if hydra
        else [("file", str(CONF))]
    )
    for scheme, path in listed:
        source = create_config_source(scheme, path)
        if source.available():
            yield source


@lru_cache(maxsize=64)  # a grid reads the same few again and again
def _read_cached_data_set_file(
    source_class: type[ConfigSource], config_folder: str, name: str, _modified_ns: int
) -> DataSetFile:
    source = source_class("", f"{source_class.scheme()}://{config_folder}")
    where = f"{config_folder}/{GROUP}/{name}.yaml"
    content: Any = OmegaConf.to_container(source.load_config(f"{GROUP}/{name}").config)
    if not isinstance(content, dict) or not isinstance(content.get("data"), str):
        raise ConfigError(
            "a data set's file needs the key `data` with a FILE, a FOLDER or a Hub id",
            key=where,
            code="missing",
        )
    for key in content:
        if key not in KEYS:
            raise ConfigError(
                format_unknown_choice_message("key of a data set", str(key), KEYS),
                key=where,
                code="unknown_choice",
            )
    for key in PATH_KEYS:  # relative to the file, since the working directory is often another
        if str(content.get(key, "")).startswith("."):
            content[key] = str(Path(config_folder, GROUP, content[key]).absolute())
    return DataSetFile(where, content)

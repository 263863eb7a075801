"""Config sources for Hydra: YAML files that are checked before reading, and the runner's own
schemas.

Hydra reads these through objects of its own classes and of classes derived from them. Nothing
is added to its ConfigStore and no class of it is changed: a program that imports the runner
finds Hydra unmodified. The price: `hydra.compose` alone cannot compose conf/, because only a
loader of `create_config_loader` knows the schemas.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable
from copy import copy
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.core_plugins import structured_config_source
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from runner.config import profiles
from runner.config.choices import CONF, list_choices
from runner.config.groups import GROUPS, list_schema_names
from runner.config.hydra_options import KINDS as HYDRA_KINDS
from runner.config.hydra_options import HydraOption, find_installed_option, list_installed_option_names
from runner.config.renamed_keys import rename_old_keys_in_yaml
from runner.config.root import RunnerConfig
from runner.config.yaml_files import get_fast_yaml_loader, guard_yaml_loading
from runner_base import find_plug_ins
from runner_base.plugins import builtin_conf_files

# of a study's grid: sweeps by key, keys that advance together, combinations to leave out, a folder
# of model files
GRID: dict[str, Any] = {"_target_": "hydra_plugins.runner.GridSweeper", "params": {}, "zip": [], "cases": []}
GRID |= {"exclude": [], "files": None, "reference": None}
PROFILES = "hydra/profile"  # has PROFILE_MODEL: the keys that a profile sets
OPTIONS = {f"hydra/{kind}": kind for kind in HYDRA_KINDS}
WORKERS = {"_target_": "hydra_plugins.runner.WorkerLauncher", "fresh": False}


def create_config_loader(search_path: ConfigSearchPath) -> ConfigLoaderImpl:
    """Return Hydra's own config loader, which reads from the runner's config sources.

    Hydra 1.4 treats a subclass of its loader differently.
    """
    loader = ConfigLoaderImpl(search_path)
    loader.repository = Repository(search_path)
    return loader


def create_config_source(scheme: str, path: str) -> ConfigSource:
    """Return the config source for a folder or package. `scheme` is one of hydra.runtime.config_sources."""
    # Hydra's registry is empty in a process that composes nothing, such as a worker
    kind = OURS.get(scheme) or SourcesRegistry.instance().resolve(scheme)
    return kind("", f"{scheme}://{path}")


class Repository(ConfigRepository):
    """Hydra's config repository, in which the runner's sources replace Hydra's sources of the same
    scheme.
    """

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self.sources = [_replace_hydra_config_source(source) for source in self.sources]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the repository without its sources, which are immutable. Hydra makes many copies for
        --help.
        """
        return copy(self)


class CheckedFiles(FileConfigSource):
    """Config source for a folder of YAML files. If the folder is conf/, the files of built-in options
    are added.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """Check a YAML file for errors and load it."""
        name = self._normalize_file_name(config_path)
        folder = self._find_option_folder(name) or self.path
        file = Path(os.path.realpath(os.path.join(folder, name)))
        with guard_yaml_loading(file):
            if self.path == str(CONF) and file.is_file():
                return self._load_option_file(file)
            return _rename_old_keys_in_file(super().load_config(config_path), config_path)

    def _load_option_file(self, file: Path) -> ConfigResult:
        """Load the YAML file of a built-in option as if the file were in conf/."""
        text = file.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=get_fast_yaml_loader())
        config: Any = _merge_yaml_into_schema(content) or OmegaConf.create({} if content is None else content)
        return ConfigResult(
            self.provider, f"{self.scheme()}://{self.path}", config, self._get_header_dict(text[:512])
        )

    def is_config(self, config_path: str) -> bool:
        return (
            super().is_config(config_path)
            or self._find_option_folder(self._normalize_file_name(config_path)) is not None
        )

    def list(self, config_path: str, results_filter: ObjectType | None) -> builtins.list[str]:
        found = super().list(config_path, results_filter)
        if results_filter is ObjectType.GROUP or self.path != str(CONF):
            return found
        split = (name.removesuffix(".yaml").rpartition("/") for name in builtin_conf_files())
        return sorted({*found, *(name for group, _, name in split if group == config_path.strip("/"))})

    def _find_option_folder(self, name: str) -> Path | None:
        """Return the conf/ folder of the built-in option that contains this file, or None."""
        return builtin_conf_files().get(name) if self.path == str(CONF) else None


class CheckedPackage(ImportlibResourcesConfigSource):
    """Config source for a config folder within a Python package."""

    def _read_config(self, res: Any) -> ConfigResult:
        with guard_yaml_loading(res):
            return super()._read_config(res)

    def load_config(self, config_path: str) -> ConfigResult:
        """Load a YAML file with the current names of its keys."""
        return _rename_old_keys_in_file(super().load_config(config_path), config_path)


class StructuredConfigSource(structured_config_source.StructuredConfigSource):
    """Config source for the runner's schemas, then Hydra's ConfigStore. Hydra requires this class name."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Load a built-in config of the runner, or a config from Hydra's ConfigStore."""
        path = config_path.removesuffix(".yaml")
        if (make := find_config_factory(path)) is None:
            return super().load_config(config_path)
        package = "_global_" if path.startswith(f"{PROFILES}/") else None
        return ConfigResult("runner", f"{self.scheme()}://{self.path}", make(), {"package": package})

    def is_group(self, config_path: str) -> bool:
        return config_path.rstrip("/") in list_builtin_config_groups() or super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        path = config_path.rstrip("/").removesuffix(".yaml")
        return find_config_factory(path) is not None or super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> builtins.list[str]:
        found = {*super().list(config_path, results_filter)} if super().is_group(config_path) else set()
        configs = [] if results_filter is ObjectType.GROUP else [*get_config_factories()]
        groups = [] if results_filter is ObjectType.CONFIG else [*list_builtin_config_groups()]
        split = (path.rpartition("/") for path in (*configs, *groups))
        found |= {name for group, _, name in split if group == config_path.strip("/")}
        return sorted(
            found
            if results_filter is ObjectType.GROUP
            else found | {*_list_config_names_in_lazy_modules(config_path.strip("/"))}
        )


def _rename_old_keys_in_file(loaded: ConfigResult, config_path: str) -> ConfigResult:
    """Rename the old keys of a YAML file to their current names."""
    if isinstance(loaded.config, DictConfig):
        path = config_path.removesuffix(".yaml")
        loaded.config = rename_old_keys_in_yaml(loaded.config, path, loaded.header.get("package"))
    return loaded


OURS: dict[str, type[ConfigSource]] = {  # by scheme: Hydra may import its own classes twice
    kind.scheme(): kind for kind in (CheckedFiles, CheckedPackage, StructuredConfigSource)
}


def _replace_hydra_config_source(source: ConfigSource) -> ConfigSource:
    """Return the runner's config source that replaces one of Hydra's. Sources of other packages are
    returned unchanged.
    """
    kind = OURS.get(source.scheme())
    return source if kind is None else kind(source.provider, source.full_path())


def _merge_yaml_into_schema(content: Any) -> DictConfig | None:
    """Merge a YAML file's content into its schema. Returns None if the defaults list names anything but
    the schema.

    Returns None for other defaults lists.

    Hydra would load the schema as a further config and, for each config, copy all choices that were
    made so far.
    """
    match content:
        case {"defaults": [str(schema), "_self_"], **keys} if make := find_config_factory(
            _parse_schema_path(schema)
        ):
            config = make()
            config.merge_with(keys)
            return config
    return None


def _parse_schema_path(defaults_entry: str) -> str:
    """Return the schema path in an entry of a defaults list, or an empty string.

    Such an entry has the form /hydra/schema/GROUP/NAME@_here_.
    """
    path, _, package = defaults_entry.removeprefix("/").partition("@")
    return path if package == "_here_" and path.startswith("hydra/schema/") else ""


def find_config_factory(path: str) -> Callable[[], DictConfig] | None:
    """Return the function that creates the built-in config at a path, or None for other paths."""
    if path in get_config_factories():
        return get_config_factories()[path]
    group, _, name = path.rpartition("/")
    if (
        group == PROFILES
        and (of_weights := profiles.get_profile_model_keys(name, _list_profile_model_choices())) is not None
    ):
        return partial(_create_extensible_config, of_weights)
    if group in OPTIONS and (option := find_installed_option(OPTIONS[group], name)) is not None:
        return partial(_create_option_config, option)
    return None


def _list_config_names_in_lazy_modules(group: str) -> list[str]:
    """Import the modules that define a group's configs, and return the names of these configs."""
    if group == PROFILES:
        return profiles.list_configs_with_profile_and_model(_list_profile_model_choices())
    return list_installed_option_names(OPTIONS[group]) if group in OPTIONS else []


@cache
def _list_profile_model_choices() -> frozenset[str]:
    return frozenset(list_choices("model")) - find_plug_ins("model").keys()


@cache
def get_config_factories() -> dict[str, Callable[[], DictConfig]]:
    """Return the functions that create the built-in configs, by config path.

    A job uses few of the schemas: their classes are imported on creation, also those of plug-ins.
    They are under hydra/, because `--help` and tab completion list only groups outside of it.
    """
    configs: dict[str, Callable[[], DictConfig]] = {
        "hydra/schema/runner": partial(_create_extensible_config, RunnerConfig),
        "hydra/sweeper/grid": partial(_create_extensible_config, GRID, "params"),
        "hydra/launcher/workers": partial(_create_extensible_config, WORKERS),
    }
    for group in GROUPS:
        configs |= {
            f"hydra/schema/{group}/{name}": partial(_create_schema_config, group, name)
            for name in list_schema_names(group)
        }
    return configs


@cache
def list_builtin_config_groups() -> frozenset[str]:
    parents = {path.rpartition("/")[0] for path in (*get_config_factories(), f"{PROFILES}/")}
    return frozenset(parents | {parent.rpartition("/")[0] for parent in parents} - {""})


def _create_option_config(option: HydraOption) -> DictConfig:
    content, open_keys = option.settings()
    return _create_extensible_config(content, *open_keys)


def _create_schema_config(group: str, name: str) -> DictConfig:
    schema = GROUPS[group][name]
    free = [item.name for item in fields(schema) if item.default_factory is dict]
    return _create_extensible_config(schema, *free)


def _create_extensible_config(content: Any, *extensible_keys: str) -> DictConfig:
    """Return a config in which users can add keys below `extensible_keys` without a leading +."""
    node: DictConfig = OmegaConf.structured(content)
    for key in extensible_keys:
        OmegaConf.set_struct(node[key], False)
    return node

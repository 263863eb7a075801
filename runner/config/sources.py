"""Where configs come from: files, which are checked before they are read, and the runner's own
schemas.

Hydra reads these through objects of its own classes and of classes derived from them. Nothing is
added to its ConfigStore and no class of it is changed: a program of its own that imports the runner
finds Hydra as it is. The price: `hydra.compose` alone cannot compose conf/, since only a loader of
`loader_of` knows the schemas.
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
from runner.config.choices import CONF, choices_for
from runner.config.groups import GROUPS, names_of
from runner.config.hydra_options import KINDS as HYDRA_KINDS
from runner.config.hydra_options import HydraOption, installed_option, installed_options
from runner.config.root import RunnerConfig
from runner.config.yaml_files import checked, quick_loader
from runner_base import plug_ins
from runner_base.plugins import own_conf_files

# of a study's grid: sweeps by key, keys that advance together, combinations to leave out, a folder
# of model files
GRID: dict[str, Any] = {"_target_": "hydra_plugins.runner.GridSweeper", "params": {}, "zip": [], "cases": []}
GRID |= {"exclude": [], "files": None, "reference": None}
PROFILES = "hydra/profile"  # has PROFILE_MODEL: the keys that a profile sets
OPTIONS = {f"hydra/{kind}": kind for kind in HYDRA_KINDS}
WORKERS = {"_target_": "hydra_plugins.runner.WorkerLauncher", "fresh": False}


def loader_of(search_path: ConfigSearchPath) -> ConfigLoaderImpl:
    """Return Hydra's loader with the runner's sources. Hydra 1.4 treats a loader of a derived class
    differently."""
    loader = ConfigLoaderImpl(search_path)
    loader.repository = Repository(search_path)
    return loader


def source_at(scheme: str, path: str) -> ConfigSource:
    """Return the source of the configs in a folder or package, as hydra.runtime.config_sources
    names it."""
    # Hydra's registry is empty in a process that composes nothing, such as a worker
    kind = OURS.get(scheme) or SourcesRegistry.instance().resolve(scheme)
    return kind("", f"{scheme}://{path}")


class Repository(ConfigRepository):
    """Hydra's repository with the runner's sources in place of those of the same scheme."""

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        """Make a source for each entry of the search path."""
        super().initialize_sources(config_search_path)
        self.sources = [_ours(source) for source in self.sources]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Share the sources, which never change: Hydra copies them whenever it lists a group, 60
        times for --help."""
        return copy(self)


class CheckedFiles(FileConfigSource):
    """A folder; conf/ has the files of the runner's own options, too, which stand beside their
    code."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Load a file, if it may be loaded."""
        name = self._normalize_file_name(config_path)
        folder = self._option(name) or self.path
        file = Path(os.path.realpath(os.path.join(folder, name)))
        with checked(file):
            if self.path == str(CONF) and file.is_file():
                return self._shipped(file)
            return super().load_config(config_path)

    def _shipped(self, file: Path) -> ConfigResult:
        """Load a file that ships as Hydra's source would."""
        text = file.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=quick_loader())
        config: Any = _with_its_schema(content) or OmegaConf.create({} if content is None else content)
        return ConfigResult(
            self.provider, f"{self.scheme()}://{self.path}", config, self._get_header_dict(text[:512])
        )

    def is_config(self, config_path: str) -> bool:
        return (
            super().is_config(config_path) or self._option(self._normalize_file_name(config_path)) is not None
        )

    def list(self, config_path: str, results_filter: ObjectType | None) -> builtins.list[str]:
        """Return the names of the configs, groups or both in a group."""
        found = super().list(config_path, results_filter)
        if results_filter is ObjectType.GROUP or self.path != str(CONF):
            return found
        split = (name.removesuffix(".yaml").rpartition("/") for name in own_conf_files())
        return sorted({*found, *(name for group, _, name in split if group == config_path.strip("/"))})

    def _option(self, name: str) -> Path | None:
        """Return the folder conf/ of the option that has a file of this name, if this is the
        runner's conf/."""
        return own_conf_files().get(name) if self.path == str(CONF) else None


class CheckedPackage(ImportlibResourcesConfigSource):
    """A folder within a Python package."""

    def _read_config(self, res: Any) -> ConfigResult:
        with checked(res):
            return super()._read_config(res)


class StructuredConfigSource(structured_config_source.StructuredConfigSource):
    """The runner's own configs, then those in Hydra's ConfigStore. Hydra knows it by this name of
    the class."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Make a config of our own, or load Hydra's."""
        path = config_path.removesuffix(".yaml")
        if (make := own_config(path)) is None:
            return super().load_config(config_path)
        package = "_global_" if path.startswith(f"{PROFILES}/") else None
        return ConfigResult("runner", f"{self.scheme()}://{self.path}", make(), {"package": package})

    def is_group(self, config_path: str) -> bool:
        return config_path.rstrip("/") in own_groups() or super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        path = config_path.rstrip("/").removesuffix(".yaml")
        return own_config(path) is not None or super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> builtins.list[str]:
        """Return the names of the configs, groups or both in a group."""
        found = {*super().list(config_path, results_filter)} if super().is_group(config_path) else set()
        configs = [] if results_filter is ObjectType.GROUP else [*own_configs()]
        groups = [] if results_filter is ObjectType.CONFIG else [*own_groups()]
        split = (path.rpartition("/") for path in (*configs, *groups))
        found |= {name for group, _, name in split if group == config_path.strip("/")}
        return sorted(
            found if results_filter is ObjectType.GROUP else found | {*_found_late(config_path.strip("/"))}
        )


OURS: dict[str, type[ConfigSource]] = {  # by scheme: Hydra may import its own classes twice
    kind.scheme(): kind for kind in (CheckedFiles, CheckedPackage, StructuredConfigSource)
}


def _ours(source: ConfigSource) -> ConfigSource:
    """Return our source for one of Hydra's; one of another package stays as it is, and its files
    are not checked."""
    kind = OURS.get(source.scheme())
    return source if kind is None else kind(source.provider, source.full_path())


def _with_its_schema(content: Any) -> DictConfig | None:
    """Return a choice's content in its schema, if its defaults are that schema and itself; else
    None.

    Hydra would load the schema as a further config and, for each config, copy all choices that were
    made so far.
    """
    match content:
        case {"defaults": [str(schema), "_self_"], **keys} if make := own_config(_schema_path(schema)):
            config = make()
            config.merge_with(keys)
            return config
    return None


def _schema_path(default: str) -> str:
    """Return the path of the schema that an entry of a defaults list names:
    /hydra/schema/GROUP/NAME@_here_."""
    path, _, package = default.removeprefix("/").partition("@")
    return path if package == "_here_" and path.startswith("hydra/schema/") else ""


def own_config(path: str) -> Callable[[], DictConfig] | None:
    """Return what makes one of the runner's own configs; None if there is none of this path."""
    if path in own_configs():
        return own_configs()[path]
    group, _, name = path.rpartition("/")
    if group == PROFILES and (of_weights := profiles.node_of(name, _models())) is not None:
        return partial(_with_own_keys, of_weights)
    if group in OPTIONS and (option := installed_option(OPTIONS[group], name)) is not None:
        return partial(_of_option, option)
    return None


def _found_late(group: str) -> list[str]:
    """Return the names in a group of which `own_configs` has none, because who lists them imports
    their modules."""
    if group == PROFILES:
        return profiles.nodes(_models())
    return installed_options(OPTIONS[group]) if group in OPTIONS else []


@cache
def _models() -> frozenset[str]:
    """Return the choices of the group model whose keys a profile may set: those of plug-ins are
    their own."""
    return frozenset(choices_for("model")) - plug_ins("model").keys()


@cache
def own_configs() -> dict[str, Callable[[], DictConfig]]:
    """Return the runner's own configs by path, but for those of `_found_late`; each is made when
    Hydra reads it.

    A job uses a few of the schemas: their classes are imported then, also those of plug-ins. They
    are under hydra/, because `--help` and tab completion list only groups outside of it.
    """
    configs: dict[str, Callable[[], DictConfig]] = {
        "hydra/schema/runner": partial(_with_own_keys, RunnerConfig),
        "hydra/sweeper/grid": partial(_with_own_keys, GRID, "params"),
        "hydra/launcher/workers": partial(_with_own_keys, WORKERS),
    }
    for group in GROUPS:
        configs |= {f"hydra/schema/{group}/{name}": partial(_schema, group, name) for name in names_of(group)}
    return configs


@cache
def own_groups() -> frozenset[str]:
    """Return the groups of the runner's own configs, and the groups above these."""
    parents = {path.rpartition("/")[0] for path in (*own_configs(), f"{PROFILES}/")}
    return frozenset(parents | {parent.rpartition("/")[0] for parent in parents} - {""})


def _of_option(option: HydraOption) -> DictConfig:
    content, open_keys = option.settings()
    return _with_own_keys(content, *open_keys)


def _schema(group: str, name: str) -> DictConfig:
    schema = GROUPS[group][name]
    free = [item.name for item in fields(schema) if item.default_factory is dict]
    return _with_own_keys(schema, *free)


def _with_own_keys(content: Any, *keys: str) -> DictConfig:
    """Return a config below some keys of which users may add keys of their own, without a + before
    them."""
    node: DictConfig = OmegaConf.structured(content)
    for key in keys:
        OmegaConf.set_struct(node[key], False)
    return node

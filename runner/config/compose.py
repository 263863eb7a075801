"""A job's config from its overrides, the same from the command line, in a grid and from Python:
Hydra composes it.

Hydra takes some 60 ms a job to build the defaults list and to merge the files, but this depends on
the group choices and on hydra.* alone. So the result is kept for each combination of these. A job
is a copy of it in which the values are set, by Hydra's own function and in Hydra's order. Where
this might differ from Hydra's composition, and after every error, the job is composed in full.
1,000 jobs of 50 seeds x 5 task.limit x 4 quantizations: 1.4 ms a job.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config.choices import choices_for
from runner.config.deleted import refuse_deleted
from runner.config.explained import config_errors
from runner.config.gguf_files import with_quantization
from runner.config.hydra import without_hydra
from runner.config.messages import unknown_choice
from runner.config.missing_keys import overrides_of_missing_keys
from runner.config.root import RunnerConfig
from runner.config.runner_hydra import hydra_of

MAX_KEPT = 1024  # combinations in memory at once; beyond that, the oldest is dropped


def compose(
    overrides: Sequence[str], name: str = "config", folder: str | None = None
) -> tuple[DictConfig, dict[str, str]]:
    """Return the config of a job and the choice of each group; `name` and `folder` are those of a
    study's file."""
    refuse_deleted(overrides)
    return without_hydra(composer_of(name, folder).compose([*overrides]))


def choose(
    groups: Iterable[str], choices: Mapping[str, str], values: Mapping[str, Any], before: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the checked dataclasses of groups, with these choices and with Python values for full
    keys.

    `before` are overrides with lower precedence than both.
    """
    for group, choice in choices.items():
        if choice not in (options := choices_for(group)):
            raise unknown_choice(group, choice, options)
    with config_errors():
        composed, _ = compose([*before, *(f"{group}={choice}" for group, choice in choices.items())])
        for key, value in values.items():
            try:
                OmegaConf.update(composed, key, value)
            except OmegaConfBaseException as error:
                raise ConfigCompositionException(f"Error merging override {key}={value}") from error
        return {group: OmegaConf.to_object(composed[group]) for group in groups}


def changed(config: RunnerConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the groups of which keys change: full keys with Python values, checked as on the
    command line."""
    with config_errors():
        names = {where.partition(".")[0] for where in values}
        groups = {group: OmegaConf.structured(getattr(config, group)) for group in names}
        for where, value in values.items():
            group, _, name = where.partition(".")
            try:
                OmegaConf.update(groups[group], name, value)
            except OmegaConfBaseException as error:
                raise ConfigCompositionException(f"Error merging override {where}={value}") from error
        return {group: OmegaConf.to_object(node) for group, node in groups.items()}


def composer_of(name: str = "config", folder: str | None = None) -> Composer:
    """Return a composer of jobs. That of the menu is kept; a study's file may have changed by the
    next call."""
    return Composer(hydra_of(folder).config_loader, name) if folder or name != "config" else _menu_composer()


@cache
def _menu_composer() -> Composer:
    return Composer(hydra_of().config_loader, "config")


class Composer:
    """Composes the jobs of one file, those of a grid with its master config. The result equals
    Hydra's composition."""

    def __init__(self, config_loader: ConfigLoader, name: str, master: DictConfig | None = None) -> None:
        self._loader, self._name, self._master = config_loader, name, master
        # with their ${...}, which iterating over the list would resolve
        hydra_overrides = [] if master is None else OmegaConf.to_container(master.hydra.overrides.hydra)
        self._for_hydra = [str(line) for line in hydra_overrides or ()]
        parser = OverridesParser.create()
        self._parse = cache(lambda line: parser.parse_overrides([line])[0])
        self._kept: dict[tuple[str, ...], bytes | None] = {}
        self.missing_keys: dict[
            tuple[str, ...], dict[str, HydraException]
        ] = {}  # choices → key → Hydra's error
        assert isinstance(config_loader, ConfigLoaderImpl)
        _, repository = config_loader._parse_overrides_and_create_caching_repo(name, self._for_hydra)
        # it knows the groups of hydra.searchpath too
        self._is_group = cache(repository.group_exists)

    def compose(self, overrides: list[str]) -> DictConfig:
        """Return the job's config, or raise what Hydra's full composition raises."""
        overrides = with_quantization(overrides)
        with suppress(Exception):  # whatever it is, the full composition reports it in Hydra's words
            if (config := self._compose_fast(overrides)) is not None:
                return self._with_masters_cache(config)
        return self._with_masters_cache(self._compose_in_full([*self._for_hydra, *overrides]))

    def compose_without_missing_keys(self, overrides: list[str]) -> tuple[DictConfig, list[str]]:
        """Return the job's config without the keys that its choices do not have, and the overrides
        that set them."""
        all_of_them = with_quantization(overrides)
        choices = tuple(line for line in all_of_them if self._is_of_combination(self._parse(line)))
        omitted = [line for line in overrides if line.partition("=")[0] in self.missing_keys.get(choices, {})]
        while True:
            used = [line for line in overrides if line not in omitted]
            try:
                return self.compose(used), omitted
            except HydraException as error:
                if not (failing := overrides_of_missing_keys(error, used)):
                    raise
                self.missing_keys.setdefault(choices, {}).update(
                    {line.partition("=")[0]: error for line in failing}
                )
                omitted += failing

    def _compose_in_full(self, overrides: list[str]) -> DictConfig:
        return self._loader.load_configuration(self._name, overrides, RunMode.RUN)

    def _with_masters_cache(self, config: DictConfig) -> DictConfig:
        """Give the job what a resolver has looked up for the whole grid, such as the time."""
        if self._master is not None:
            OmegaConf.copy_cache(from_config=self._master, to_config=config)
        return config

    def _compose_fast(self, overrides: list[str]) -> DictConfig | None:
        """Return the job's config from a kept combination, or None where only the full composition
        is safe."""
        parsed = [self._parse(line) for line in (*self._for_hydra, *overrides)]
        values = [override for override in parsed if not self._is_of_combination(override)]
        if not self._may_set_values_last(parsed, len(self._for_hydra)):
            return None
        kept = self._combination([override for override in parsed if self._is_of_combination(override)])
        if kept is None:
            return None
        config: DictConfig = pickle.loads(kept)
        ConfigLoaderImpl._apply_overrides_to_config(values, config)

        # Hydra derives these from all of a job's overrides
        of_task = [override for override in parsed if not override.is_hydra_override()]
        for override in of_task:
            config.hydra.overrides.task.append(override.input_line)
        if hasattr(
            config_loader_impl, "get_overrides_dirname"
        ):  # in Hydra 1.4 it follows from the overrides by itself
            rule = config.hydra.job.config.override_dirname
            config.hydra.job.override_dirname = config_loader_impl.get_overrides_dirname(
                overrides=of_task, kv_sep=rule.kv_sep, item_sep=rule.item_sep, exclude_keys=rule.exclude_keys
            )
        return config

    def _is_of_combination(self, override: Override) -> bool:
        """Whether an override belongs to the combination: a group choice, or anything of
        hydra.*."""
        return override.is_hydra_override() or self._chooses(override)

    def _chooses(self, override: Override) -> bool:
        """Whether Hydra takes an override for a group choice: its key is a group and its value is
        not a dict."""
        return self._is_group(override.key_or_group) and not isinstance(override.value(), dict)

    def _may_set_values_last(self, parsed: list[Override], of_master: int) -> bool:
        """Whether setting the values last gives the same: no sweep, and hydra.* values before the
        others."""
        values = [override for override in parsed if not self._chooses(override)]
        of_hydra = [override.is_hydra_override() for override in values]
        return (
            of_hydra == sorted(of_hydra, reverse=True)
            and not any(
                override.is_sweep_override() or override.key_or_group == "hydra" for override in parsed
            )
            and not any(override.key_or_group == "hydra.searchpath" for override in parsed[of_master:])
        )

    def _combination(self, shaping: list[Override]) -> bytes | None:
        """Return Hydra's composition of these overrides alone, or None if they do not compose
        without the others.

        It is kept pickled: unpickling a copy takes a third of the time of `deepcopy`, and a tenth
        of the memory.
        """
        lines = [override.input_line or "" for override in shaping]
        key = (os.getcwd(), *lines)  # the working directory ends up in hydra.runtime.cwd
        if key not in self._kept:
            if len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = None
            config = self._compose_in_full(lines)
            for override in shaping:
                if not override.is_hydra_override():
                    config.hydra.overrides.task.pop()  # every job lists its own
            self._kept[key] = pickle.dumps(config, pickle.HIGHEST_PROTOCOL)
        return self._kept[key]

"""Composes a job's config with Hydra. Command line, grid and Python get the same result.

Hydra takes some 60 ms a job to build the defaults list and to merge the files, but this depends
on the group choices and on hydra.* alone. So the result is cached for each combination of
these. A job is a copy of it in which the values are set, by Hydra's own function and in Hydra's
order. Where this might differ from Hydra's composition, and after every error, the job is
composed in full. 1,000 jobs of 50 seeds x 5 task.limit x 4 quantizations: 1.4 ms a job.
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

from runner.config.choices import list_choices
from runner.config.deleted_groups import reject_deleted_groups
from runner.config.error_messages import convert_config_errors
from runner.config.gguf_files import add_gguf_quantization_override
from runner.config.hydra import split_job_config_and_choices
from runner.config.messages import make_unknown_choice_error
from runner.config.missing_keys import find_missing_key_overrides
from runner.config.renamed_keys import rename_old_keys_in_overrides
from runner.config.root import RunnerConfig
from runner.config.runner_hydra import create_hydra

MAX_KEPT = 1024  # combinations in memory at once; beyond that, the oldest is dropped


def compose_job(
    overrides: Sequence[str], config_name: str = "config", config_folder: str | None = None
) -> tuple[DictConfig, dict[str, str]]:
    """Return a job's composed config, and the choice of each config group. A study's YAML file may
    replace the default config.
    """
    reject_deleted_groups(overrides)
    return split_job_config_and_choices(create_composer(config_name, config_folder).compose([*overrides]))


def build_group_configs(
    group_names: Iterable[str],
    choices: Mapping[str, str],
    key_values: Mapping[str, Any],
    default_overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the validated dataclass of each config group, with the given choices and key values.

    `default_overrides` have lower precedence than both.
    """
    for group, choice in choices.items():
        if choice not in (options := list_choices(group)):
            raise make_unknown_choice_error(group, choice, options)
    with convert_config_errors():
        composed, _ = compose_job(
            [*default_overrides, *(f"{group}={choice}" for group, choice in choices.items())]
        )
        for key, value in zip(rename_old_keys_in_overrides(key_values), key_values.values(), strict=True):
            try:
                OmegaConf.update(composed, key, value)
            except OmegaConfBaseException as error:
                raise ConfigCompositionException(f"Error merging override {key}={value}") from error
        return {group: OmegaConf.to_object(composed[group]) for group in group_names}


def update_group_configs(config: RunnerConfig, key_values: Mapping[str, Any]) -> dict[str, Any]:
    with convert_config_errors():
        names = {where.partition(".")[0] for where in key_values}
        groups = {group: OmegaConf.structured(getattr(config, group)) for group in names}
        for where, value in key_values.items():
            group, _, name = where.partition(".")
            try:
                OmegaConf.update(groups[group], name, value)
            except OmegaConfBaseException as error:
                raise ConfigCompositionException(f"Error merging override {where}={value}") from error
        return {group: OmegaConf.to_object(node) for group, node in groups.items()}


def create_composer(config_name: str = "config", config_folder: str | None = None) -> Composer:
    """Return a Composer for a config file. Only the Composer of the default config is cached."""
    return (
        Composer(create_hydra(config_folder).config_loader, config_name)
        if config_folder or config_name != "config"
        else _default_composer()
    )


@cache
def _default_composer() -> Composer:
    return Composer(create_hydra().config_loader, "config")


class Composer:
    """Composes the configs of many jobs from one config file, with the same result as Hydra but faster."""

    def __init__(
        self, config_loader: ConfigLoader, name: str, primary_config: DictConfig | None = None
    ) -> None:
        self._loader, self._name, self._master = config_loader, name, primary_config
        # with their ${...}, which iterating over the list would resolve
        hydra_overrides = (
            [] if primary_config is None else OmegaConf.to_container(primary_config.hydra.overrides.hydra)
        )
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
        """Return a job's config. An invalid override raises the same error as Hydra's full composition."""
        overrides = add_gguf_quantization_override(rename_old_keys_in_overrides(overrides))
        with suppress(Exception):  # whatever it is, the full composition reports it in Hydra's words
            if (config := self._compose_from_cache(overrides)) is not None:
                return self._copy_resolver_cache(config)
        return self._copy_resolver_cache(self._compose_fully([*self._for_hydra, *overrides]))

    def compose_config_without_missing_keys(self, overrides: list[str]) -> tuple[DictConfig, list[str]]:
        """Compose a config, but skip overrides whose keys the chosen config groups lack.

        Returns the config and the skipped overrides.
        """
        overrides = rename_old_keys_in_overrides(overrides)
        all_of_them = add_gguf_quantization_override(overrides)
        choices = tuple(line for line in all_of_them if self._is_choice_or_hydra_override(self._parse(line)))
        omitted = [line for line in overrides if line.partition("=")[0] in self.missing_keys.get(choices, {})]
        while True:
            used = [line for line in overrides if line not in omitted]
            try:
                return self.compose(used), omitted
            except HydraException as error:
                if not (failing := find_missing_key_overrides(error, used)):
                    raise
                self.missing_keys.setdefault(choices, {}).update(
                    {line.partition("=")[0]: error for line in failing}
                )
                omitted += failing

    def _compose_fully(self, overrides: list[str]) -> DictConfig:
        return self._loader.load_configuration(self._name, overrides, RunMode.RUN)

    def _copy_resolver_cache(self, config: DictConfig) -> DictConfig:
        """Copy cached resolver results, such as the time, from the grid's config to a job's config."""
        if self._master is not None:
            OmegaConf.copy_cache(from_config=self._master, to_config=config)
        return config

    def _compose_from_cache(self, overrides: list[str]) -> DictConfig | None:
        """Compose a job's config from the cached config of its group choices. Returns None if Hydra
        must compose it from scratch.
        """
        parsed = [self._parse(line) for line in (*self._for_hydra, *overrides)]
        values = [override for override in parsed if not self._is_choice_or_hydra_override(override)]
        if not self._can_set_keys_after_choices(parsed, len(self._for_hydra)):
            return None
        kept = self._compose_and_pickle_group_choices(
            [override for override in parsed if self._is_choice_or_hydra_override(override)]
        )
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

    def _is_choice_or_hydra_override(self, override: Override) -> bool:
        return override.is_hydra_override() or self._is_group_choice(override)

    def _is_group_choice(self, override: Override) -> bool:
        return self._is_group(override.key_or_group) and not isinstance(override.value(), dict)

    def _can_set_keys_after_choices(self, parsed_overrides: list[Override], num_primary: int) -> bool:
        """Return whether the result stays the same if key values are set after all group choices."""
        values = [override for override in parsed_overrides if not self._is_group_choice(override)]
        of_hydra = [override.is_hydra_override() for override in values]
        return (
            of_hydra == sorted(of_hydra, reverse=True)
            and not any(
                override.is_sweep_override() or override.key_or_group == "hydra"
                for override in parsed_overrides
            )
            and not any(
                override.key_or_group == "hydra.searchpath" for override in parsed_overrides[num_primary:]
            )
        )

    def _compose_and_pickle_group_choices(self, choice_overrides: list[Override]) -> bytes | None:
        """Return the pickled config of these group choices, from the cache if possible.

        Returns None if the choices cannot be composed without other overrides.

        It is cached pickled: unpickling a copy takes a third of the time of `deepcopy`, and a tenth of
        the memory.
        """
        lines = [override.input_line or "" for override in choice_overrides]
        key = (os.getcwd(), *lines)  # the working directory ends up in hydra.runtime.cwd
        if key not in self._kept:
            if len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = None
            config = self._compose_fully(lines)
            for override in choice_overrides:
                if not override.is_hydra_override():
                    config.hydra.overrides.task.pop()  # every job lists its own
            self._kept[key] = pickle.dumps(config, pickle.HIGHEST_PROTOCOL)
        return self._kept[key]

"""Handles the differences between Hydra 1.3 with OmegaConf 2.3, and Hydra 1.4 with OmegaConf 2.4."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, cast

import hydra
import omegaconf
from hydra import version
from hydra._internal.hydra import Hydra
from omegaconf import OmegaConf


def _is_version_at_least(package: Any, *min_version: int) -> bool:
    return [int(part) for part in package.__version__.split(".")[:2]] >= [*min_version]


IS_HYDRA_1_4 = _is_version_at_least(hydra, 1, 4)
# those that a config may name; 1.4 warns without a list
NAMED_CLASSES = ["runner.*", "hydra_plugins.*", "logging.*"]
# whose defaults count
VERSION_BASE: dict[str, Any] = {} if IS_HYDRA_1_4 else {"version_base": "1.3"}
# in 2.3 the first name is that of an older method
register_resolver: Any = (
    OmegaConf.register_resolver if _is_version_at_least(omegaconf, 2, 4) else OmegaConf.register_new_resolver
)


def allow_hydra_to_instantiate_classes() -> AbstractContextManager[Any]:
    """Allow configs to instantiate the classes in NAMED_CLASSES, as `hydra.main` does."""
    if not IS_HYDRA_1_4:
        return nullcontext()
    allow: Any = import_module("hydra.utils").execution_whitelist
    return cast(AbstractContextManager[Any], allow(NAMED_CLASSES))


def apply_hydra_main_settings() -> AbstractContextManager[Any]:
    """Apply the global settings that `hydra.main` applies before it parses the command line."""
    if not IS_HYDRA_1_4:
        version.setbase(VERSION_BASE["version_base"])
    return allow_hydra_to_instantiate_classes()


def prepend_overrides_of_rerun_job(arguments: Any) -> list[str]:
    """Prepend the overrides of an earlier job to those of the command line, and return the earlier overrides.

    The option --experimental-rerun of Hydra 1.4 names the earlier job.
    """
    if arguments.experimental_rerun is None:
        return []
    if arguments.multirun or arguments.config_name is not None:
        raise ValueError("--experimental-rerun cannot be combined with --multirun or --config-name")
    utils: Any = import_module("hydra._internal.utils")
    arguments.config_name, saved = utils._get_rerun_overrides(arguments.experimental_rerun)
    arguments.overrides = saved + arguments.overrides
    return list(saved)


def build_parsed_overrides_kwargs(
    hydra: Hydra, config_name: str, overrides: list[str], rerun_overrides: list[str]
) -> dict[str, Any]:
    """Return the keyword argument `parsed_overrides`, which Hydra 1.4 requires. Empty for Hydra 1.3."""
    if not IS_HYDRA_1_4:
        return {}
    loader: Any = hydra.config_loader
    return {
        "parsed_overrides": loader.parse_overrides(config_name, overrides, alias_start=len(rerun_overrides))
    }

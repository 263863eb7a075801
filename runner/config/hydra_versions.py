"""What differs between Hydra 1.3 with OmegaConf 2.3 and Hydra 1.4 with OmegaConf 2.4."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.metadata import version
from typing import Any, cast

from omegaconf import OmegaConf


def _is_at_least(package: str, *wanted: int) -> bool:
    return [int(part) for part in version(package).split(".")[:2]] >= [*wanted]


IS_HYDRA_1_4 = _is_at_least("hydra-core", 1, 4)
NAMED_CLASSES = ["runner.*", "hydra_plugins.*", "logging.*"]  # those that a config may name; 1.4 warns without a list
VERSION_BASE: dict[str, Any] = {} if IS_HYDRA_1_4 else {"version_base": "1.3"}  # whose defaults count
OF_MAIN: dict[str, Any] = {"execution_whitelist": NAMED_CLASSES} if IS_HYDRA_1_4 else VERSION_BASE
register_resolver: Any = (
    OmegaConf.register_resolver if _is_at_least("omegaconf", 2, 4) else OmegaConf.register_new_resolver
)  # in 2.3 the first name is that of an older method


def named_classes() -> AbstractContextManager[Any]:
    """Let configs name the classes that the command line lets them name, where Hydra is used without its main()."""
    if not IS_HYDRA_1_4:
        return nullcontext()
    allow: Any = import_module("hydra.utils").execution_whitelist
    return cast(AbstractContextManager[Any], allow(NAMED_CLASSES))

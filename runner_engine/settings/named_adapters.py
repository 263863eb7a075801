"""Config choice lora=several: named PEFT adapters on one base model. Each request selects an adapter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from runner_base import HASHED, ConfigError, check_value, format_unknown_choice_message
from runner_engine.settings.lora import LoraConfig, PeftConfig, PthConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+/-]*")
EXAMPLE = "'lora.adapters={math: FOLDER, style: FOLDER}'"


@dataclass
class NamedAdapter(PeftConfig):
    """Config of one of the adapters in lora=several."""

    called: str = ""

    @property
    def path_key(self) -> str:
        return f"lora.adapters.{self.called}"


@dataclass
class MultiAdapterConfig(LoraConfig):
    """Several PEFT adapters on one base model. A request selects an adapter by name, or the base model."""

    name: ClassVar[str] = "several"
    packages: ClassVar[tuple[str, ...]] = ("peft",)
    adapts: ClassVar[bool] = True

    adapters: dict[str, str] = field(default_factory=dict, metadata={"counts": HASHED})

    def __post_init__(self) -> None:
        need = f"must map each adapter's name to a PEFT folder or hub ID, as in {EXAMPLE}"
        check_value(bool(self.adapters), "lora.adapters", self.adapters, need, "missing")
        for name, path in self.adapters.items():
            key, need = f"lora.adapters.{name}", "must be the adapter's folder or hub ID"
            check_value(isinstance(path, str) and bool(path.strip()), key, path, need, "missing")
            if not NAME.fullmatch(str(name)):
                raise ConfigError(
                    f"{name!r} is not a valid adapter name. Use letters, digits and ._:@+/-",
                    key="lora.adapters",
                    code="bad_value",
                )

    def check_adapter_names(self, task: str, requested_names: Sequence[str] | None) -> None:
        """Raise ConfigError if no request of a task selects an adapter, or if a request selects an
        unknown adapter.
        """
        if requested_names is None:
            return
        if not requested_names:
            raise ConfigError(
                f"no request of task={task} selects an adapter. Use lora=peft, task=serve, or "
                "task=agents with task.role_adapters",
                key="lora",
                value="several",
                code="no_effect",
            )
        for name in requested_names:
            if name not in self.adapters:
                raise ConfigError(
                    format_unknown_choice_message("adapter", name, self.adapters),
                    key="task",
                    value=task,
                    code="unknown_choice",
                )

    def reject_scheduler_only_settings(self, reason: str) -> None:
        """Raise ConfigError, because only the scheduler supports different adapters in one forward pass."""
        raise ConfigError(
            f"requests with different adapters need continuous batching, but {reason}. Use lora=peft",
            key="lora",
            value="several",
            code="unsupported",
        )

    @property
    def selectable_adapters(self) -> list[PeftConfig]:
        """The config of each adapter."""
        return [NamedAdapter(path, called=name) for name, path in self.adapters.items()]

    @property
    def adapter_names(self) -> list[str]:
        return [*self.adapters]


LORAS: dict[str, type[LoraConfig]] = {
    kind.name: kind for kind in (LoraConfig, PeftConfig, PthConfig, MultiAdapterConfig)
}

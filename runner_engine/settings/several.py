"""lora=several – PEFT adapters by name, beside one base: each request names the one that its tokens
are computed with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from runner_base import HASHED, ConfigError, check, unknown
from runner_engine.settings.lora import LoraConfig, PeftConfig, PthConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+/-]*")
EXAMPLE = "'lora.adapters={math: FOLDER, style: FOLDER}'"


@dataclass
class NamedAdapter(PeftConfig):
    """An adapter of several, as if it were the only one."""

    called: str = ""

    @property
    def key(self) -> str:
        """Return the key that says where it is."""
        return f"lora.adapters.{self.called}"


@dataclass
class SeveralConfig(LoraConfig):
    """Several PEFT adapters beside one base: a request names one, or none for the base."""

    name: ClassVar[str] = "several"
    packages: ClassVar[tuple[str, ...]] = ("peft",)
    adapts: ClassVar[bool] = True

    adapters: dict[str, str] = field(default_factory=dict, metadata={"counts": HASHED})

    def __post_init__(self) -> None:
        need = f"give each adapter a name and a PEFT folder or hub id, as {EXAMPLE}"
        check(bool(self.adapters), "lora.adapters", self.adapters, need, "missing")
        for name, path in self.adapters.items():
            key, need = f"lora.adapters.{name}", "give the adapter's folder or hub id"
            check(isinstance(path, str) and bool(path.strip()), key, path, need, "missing")
            if not NAME.fullmatch(str(name)):
                raise ConfigError(
                    f"{name!r} is no name for an adapter: use letters, digits and ._:@+/-",
                    key="lora.adapters",
                    code="bad_value",
                )

    def check_named(self, task: str, names: Sequence[str] | None) -> None:
        """Reject a task that names no adapter, or one that is not among them."""
        if names is None:
            return
        if not names:
            raise ConfigError(
                f"no request of task={task} names an adapter: use lora=peft, or task=serve, or "
                "task=agents with task.role_adapters",
                key="lora",
                value="several",
                code="no_effect",
            )
        for name in names:
            if name not in self.adapters:
                raise ConfigError(
                    unknown("adapter", name, self.adapters), key="task", value=task, code="unknown_choice"
                )

    def require_no_scheduler(self, why: str) -> None:
        """Raise ConfigError: only the scheduler knows which rows of a pass have which adapter."""
        raise ConfigError(
            f"rows of several adapters need continuous batching, and {why}: use lora=peft",
            key="lora",
            value="several",
            code="unsupported",
        )

    @property
    def each(self) -> list[PeftConfig]:
        """Return the keys of each adapter as if it were the only one."""
        return [NamedAdapter(path, called=name) for name, path in self.adapters.items()]

    @property
    def names(self) -> list[str]:
        """Return what requests call these adapters."""
        return [*self.adapters]


LORAS: dict[str, type[LoraConfig]] = {
    kind.name: kind for kind in (LoraConfig, PeftConfig, PthConfig, SeveralConfig)
}

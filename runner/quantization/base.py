"""What every choice of `quantization` says of itself, and the choice `none`.

A choice is one class: its keys and their checks, the packages it needs, its price in bytes, what transformers is told,
and how its checkpoints and its layers are recognised. torch and transformers are imported inside functions only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from runner.core.errors import ConfigError

if TYPE_CHECKING:
    import torch


class CheckpointSource(StrEnum):
    """Which checkpoints a choice loads."""

    plain = "plain"  # of ordinary numbers; what is quantized happens while loading
    quantized = "quantized"  # only those that its library has quantized
    gguf = "gguf"  # one .gguf file


@dataclass
class QuantizationConfig:
    """No quantization: the weights stay in model.dtype, or as the checkpoint has them."""

    name: ClassVar[str] = "none"

    packages: ClassVar[tuple[str, ...]] = ()  # needed besides the core install
    install: ClassVar[str] = ""  # the command that installs them
    source: ClassVar[CheckpointSource] = CheckpointSource.plain
    packed: ClassVar[bool] = False  # whether linear layers are held quantized once they are loaded
    method: ClassVar[str] = ""  # `quant_method` in the config.json of its checkpoints
    holders: ClassVar[tuple[str, ...]] = ()  # where the classes of its layers, or of their weights, are defined
    packed_names: ClassVar[tuple[str, ...]] = ()  # how stored packed weights end that are not called .weight
    note_names: ClassVar[tuple[str, ...]] = ()  # in names of stored tensors that say how others are packed: not held

    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes of one linear weight as it is held, and of its constants."""
        return numbers * dtype_bytes, 0

    def unpacked_bytes(self, dtype_bytes: int) -> int:
        """Return the bytes of one number in the unpacked copy that a product makes of a whole weight; 0 = no copy."""
        return 0

    def has_kernels(self, dtype_bytes: int) -> bool:
        """Whether the local engine has kernels of its own for such layers, which make no copy of a weight."""
        return False

    def pass_bytes(self, device: str, positions: int, width: int, dtype_bytes: int) -> int:
        """Return what a product of so many positions with a layer of this width takes beside its result."""
        return 0

    @property
    def load_bytes_per_number(self) -> int:
        """Bytes for each number of the largest weight that quantizing it takes while loading."""
        return 0

    def load_arguments(self) -> dict[str, Any]:
        """Return what `from_pretrained` needs to be told to quantize a plain checkpoint."""
        return {}

    @classmethod
    def read_stored(cls, stored: dict[str, Any]) -> Format | None:  # noqa: ARG003
        """Read off `quantization_config` of a config.json what its library made; None when it was another."""
        return None

    @staticmethod
    def quiet_import() -> None:
        """Keep what the library logs on import, and no user can act on, out of the log."""

    def prepare(self, device: str) -> None:
        """Refuse a library that cannot run on the device, before any weight is read."""

    def check_loaded(self, model: torch.nn.Module) -> None:
        """Refuse loaded layers that the library's kernels cannot compute."""

    def adapting(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        """Guard the weights while an adapter is put on the model."""
        return nullcontext()

    @staticmethod
    def constants(parameter: Any) -> Iterator[Any]:  # noqa: ARG004
        """Yield the tensors that belong to a quantized parameter and are no parameters themselves."""
        yield from ()

    def require_packages(self, who: str = "") -> None:
        """Refuse a choice whose package is not installed, with the command that installs it."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            are = "is" if len(missing) == 1 else "are"
            raise ConfigError(
                f"{who or f'quantization={self.name}'} needs {' and '.join(missing)}, which {are} not installed: "
                f"{self.install}{'' if who else ', or use quantization=none'}"
            )

    @property
    def keys(self) -> dict[str, Any]:
        """The choice's own keys."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass
class Quantized(QuantizationConfig, ABC):
    """What a choice must say for itself: nothing of this is taken from `none`."""

    packed: ClassVar[bool] = True

    @abstractmethod
    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes of one linear weight as it is held, and of its constants."""

    @abstractmethod
    def unpacked_bytes(self, dtype_bytes: int) -> int:
        """Return the bytes of one number in the unpacked copy of a weight."""

    @abstractmethod
    def load_arguments(self) -> dict[str, Any]:
        """Return what `from_pretrained` needs to be told."""


@dataclass(frozen=True)
class Format:
    """How a checkpoint's weights are quantized on disk, in the words of the group `quantization`."""

    method: str  # quant_method of its config.json
    config: QuantizationConfig  # the choice with the checkpoint's own keys: what the loaded model will be
    bits: int
    name: str  # the choice's, or what the checkpoint calls a variant that no choice makes
    matched: bool = True  # False: a variant of the method that no choice makes
    known: bool = True  # False: a method that no choice stands for

    def __str__(self) -> str:
        keys = ", ".join(f"{key}={value}" for key, value in self.config.keys.items())
        return f"{self.name} by {self.method}" + (f" ({keys})" if keys else "")

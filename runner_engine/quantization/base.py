"""What every choice of `quantization` defines, and the choice `none`.

A choice is one class: its keys and their checks, the packages it needs, its price in bytes, the
arguments for transformers, and how its checkpoints and its layers are recognised. What only some
can do stands in capabilities.py. torch and transformers are imported inside functions only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum, StrEnum, auto
from importlib.util import find_spec
from typing import Any, ClassVar

from runner_base import UNLESS_DEFAULT, ConfigError, Inert, setting
from runner_base.notes import Note

# of every choice: which layers it leaves to others (runner_engine/quantization/mixed.py)
MIX_KEYS = ("skip", "overrides")
# that say nothing about the numbers of a quantized layer
GENERAL_KEYS = (*MIX_KEYS, "allow_partial")

# Families of transformers whose linear layers have a class of their own: one derived from torch's,
# or one that is not.
DERIVED_LINEAR = frozenset({"falcon"})
OTHER_LINEAR = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})


class CheckpointSource(StrEnum):
    """Which checkpoints a choice loads."""

    plain = "plain"  # unquantized ones, which are quantized while loading
    quantized = "quantized"  # only those that its library has quantized
    gguf = "gguf"  # one .gguf file


class OwnLayers(Enum):
    """Which of the runner's own layers hold the weights of a choice."""

    blocks = auto()  # of a .gguf file
    groups = auto()  # a checkpoint's groups of integers (runner_engine/models/grouped.py)
    made_groups = auto()  # groups made while loading (runner_engine/models/loading/made_groups.py)


@dataclass(frozen=True)
class Library:
    """What a choice needs besides the core install, and what is peculiar about it."""

    packages: tuple[str, ...] = ()
    install: str = ""  # the command that installs them
    # silences what it logs on import if no user can act on it
    silence: Callable[[], None] = lambda: None
    # the tensors that belong to a quantized parameter and are not parameters themselves
    constants: Callable[[Any], Iterable[Any]] = lambda _: ()


@dataclass(frozen=True)
class StoredTensors:
    """The names of tensors in a quantized checkpoint."""

    codes: tuple[str, ...] = ()  # how those of packed weights end, if not in .weight
    fused_scales: tuple[str, ...] = ()  # how those of scales beside codes of all experts of a layer end
    notes: tuple[str, ...] = ()  # parts of those that describe others and are not loaded
    bits_by_type: Mapping[str, int] = field(default_factory=dict)  # of a code, where layers differ


@dataclass(frozen=True)
class Products:
    """How linear layers of a choice are multiplied, and the memory that this takes."""

    unpacked_bytes: int = 0  # of a number in the copy that a product makes of a whole weight; 0: no copy
    has_kernels: bool = False  # the local engine has its own kernels for them, which make no copy
    may_round_rows: bool = False  # rows may be quantized, too
    cpu_pass_bytes: int = 0  # for each position and input on a CPU, besides the result


@dataclass
class QuantizationConfig:
    """No quantization: the weights are in model.dtype, or as in the checkpoint."""

    name: ClassVar[str] = "none"

    library: ClassVar[Library] = Library()
    source: ClassVar[CheckpointSource] = CheckpointSource.plain
    own_layers: ClassVar[OwnLayers | None] = None  # None: layers of the library
    packed: ClassVar[bool] = False  # whether linear layers are quantized in memory
    method: ClassVar[str] = ""  # `quant_method` in the config.json of its checkpoints
    # the modules that define the classes of its layers, or of their weights
    holders: ClassVar[tuple[str, ...]] = ()
    tensors: ClassVar[StoredTensors] = StoredTensors()  # of its checkpoints
    load_bytes_per_number: ClassVar[int] = 0  # that quantizing the largest weight takes while loading

    # not in the text of a choice, which names timings that were taken without these keys: see
    # mix_keys
    skip: list[str] = field(
        default_factory=list, kw_only=True, repr=False, metadata={"counts": UNLESS_DEFAULT}
    )
    overrides: dict[str, Any] = field(
        default_factory=dict, kw_only=True, repr=False, metadata={"counts": UNLESS_DEFAULT}
    )
    allow_partial: bool = field(
        default=False, kw_only=True, repr=False, metadata={"counts": Inert("runs what is refused without it")}
    )

    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes of one linear weight in memory, and of its constants."""
        return numbers * dtype_bytes, 0

    def products(self, dtype_bytes: int) -> Products:
        """Return how layers are multiplied by activations whose numbers have so many bytes."""
        return Products()

    @property
    def has_byte_rows(self) -> bool:
        """Whether our layers round rows to 8 bits, a part of a row at a time."""
        return False

    @property
    def mixes_rows(self) -> bool:
        """Whether a row's result depends on the rows that are computed with it."""
        return False

    def load_arguments(self) -> dict[str, Any]:
        """Return the arguments with which `from_pretrained` quantizes a plain checkpoint."""
        return {}

    @classmethod
    def read_stored(cls, stored: dict[str, Any]) -> Format | None:  # noqa: ARG003
        """Return the format from `quantization_config` in a config.json; None if another library
        made it."""
        return None

    def reaches(self, family: str, layer_by_layer: bool) -> bool:
        """Whether it takes the class of linear layers that a family (`model_type`) has, alone or in
        a mix."""
        return family not in DERIVED_LINEAR

    def require_packages(self, who: str = "") -> None:
        """Reject a choice whose package is not installed, with the command that installs it."""
        missing = [name for name in self.library.packages if find_spec(name) is None]
        if missing:
            are = "is" if len(missing) == 1 else "are"
            raise ConfigError(
                f"{who or f'quantization={self.name}'} needs {' and '.join(missing)}, which {are} not installed: "
                f"{self.library.install}{'' if who else ', or use quantization=none'}",
                code="needs_package",
            )

    @property
    def keys(self) -> dict[str, Any]:
        """The choice's own keys."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in GENERAL_KEYS}

    @property
    def mix_keys(self) -> list[Any]:
        """What sets a mix apart from its base; nothing without one."""
        return [self.skip, self.overrides] if self.is_mixed else []

    @property
    def is_mixed(self) -> bool:
        """Whether some layers are named that get something else."""
        return bool(self.skip or self.overrides)

    @property
    def label(self) -> str:
        """The name, with what the named layers get instead: `nf4 (layers.0: none; down_proj:
        int8)`."""
        parts = [f"{', '.join(self.skip)}: none"] if self.skip else []
        for pattern, value in self.overrides.items():
            parts.append(f"{pattern}: {value.get('name') if isinstance(value, dict) else value}")
        return f"{self.name} ({'; '.join(parts)})" if parts else self.name


@dataclass
class Quantized(QuantizationConfig, ABC):
    """The members that a choice must define itself instead of inheriting them from `none`."""

    packed: ClassVar[bool] = True

    @abstractmethod
    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes of one linear weight in memory, and of its constants."""

    @abstractmethod
    def products(self, dtype_bytes: int) -> Products:
        """Return how its layers are multiplied."""

    @abstractmethod
    def load_arguments(self) -> dict[str, Any]:
        """Return the arguments for `from_pretrained`."""


@dataclass
class WithByteRows(QuantizationConfig):
    """int8_rows: rows are rounded to 8 bits before they are multiplied by the codes of our
    layers."""

    int8_rows: bool = setting(False, UNLESS_DEFAULT)

    @property
    def has_byte_rows(self) -> bool:
        """Whether that is asked for."""
        return self.int8_rows

    def products(self, dtype_bytes: int) -> Products:
        """Return what the weights have, with memory for rows in 8 bits."""
        return replace(super().products(dtype_bytes), may_round_rows=self.int8_rows)

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of the weights: a checkpoint says nothing about the rows."""
        return {key: value for key, value in super().keys.items() if key != "int8_rows"}

    @property
    def label(self) -> str:
        """The choice, with rows in 8 bits if it has them."""
        return f"{super().label}, rows in 8 bits" if self.int8_rows else super().label


@dataclass(frozen=True)
class Format:
    """How a checkpoint's weights are quantized on disk, in terms of the group `quantization`."""

    method: str  # quant_method of its config.json
    config: QuantizationConfig  # the choice with the checkpoint's own keys, as the loaded model will have it
    bits: int
    name: str  # the choice's, or the checkpoint's name of a variant that no choice makes
    matched: bool = True  # False: a variant of the method that no choice makes
    known: bool = True  # False: a method without a choice
    refusal: Note | None = None  # why the runner cannot read this variant
    note: Note | None = None  # what of it is not used

    def numbers(self, nbytes: int, dtype: str) -> int:
        """Return how many numbers codes of this type stand for."""
        return nbytes * 8 // self.config.tensors.bits_by_type.get(dtype, self.bits)

    def __str__(self) -> str:
        keys = ", ".join(f"{key}={value}" for key, value in self.config.keys.items())
        return f"{self.name} by {self.method}" + (f" ({keys})" if keys else "")

"""Base classes of all quantization choices, and the choice quantization=none.

A choice is one class: its keys and their checks, the packages it needs, its size in bytes, the
arguments for transformers, and how its checkpoints and layers are recognised. capabilities.py
defines what only some can do. torch and transformers are imported inside functions only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum, StrEnum, auto
from importlib.util import find_spec
from typing import Any, ClassVar

from runner_base import UNLESS_DEFAULT, ConfigError, NotInIdentity, config_field
from runner_base.notes import Note

# of every choice: which layers it leaves to others (runner_engine/quantization/quantization_mix.py)
MIX_KEYS = ("skip", "overrides")
# that say nothing about the numbers of a quantized layer
GENERAL_KEYS = (*MIX_KEYS, "allow_partial")

# Families of transformers whose linear layers have a class of their own: one derived from torch's,
# or one that is not.
DERIVED_LINEAR = frozenset({"falcon"})
OTHER_LINEAR = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})


class CheckpointSource(StrEnum):
    """Kind of checkpoint that a quantization choice loads: unquantized, quantized or .gguf."""

    plain = "plain"  # unquantized ones, which are quantized while loading
    quantized = "quantized"  # only those that its library has quantized
    gguf = "gguf"  # one .gguf file


class OwnLayers(Enum):
    """The runner's own layer class that a quantization choice uses for its weights."""

    blocks = auto()  # of a .gguf file
    groups = auto()  # a checkpoint's groups of integers (runner_engine/models/grouped_linear.py)
    made_groups = auto()  # groups made while loading (runner_engine/models/loading/made_groups.py)


@dataclass(frozen=True)
class QuantizationLibrary:
    """Python packages that a quantization choice needs: install command, log filter, and extra
    tensors to count.
    """

    packages: tuple[str, ...] = ()
    install: str = ""  # the command that installs them
    # silences what it logs on import if no user can act on it
    silence: Callable[[], None] = lambda: None
    # the tensors that belong to a quantized parameter and are not parameters themselves
    constants: Callable[[Any], Iterable[Any]] = lambda _: ()


@dataclass(frozen=True)
class StoredTensorNames:
    """The names of the quantized tensors in a checkpoint."""

    codes: tuple[str, ...] = ()  # how those of packed weights end, if not in .weight
    fused_scales: tuple[str, ...] = ()  # how those of scales beside codes of all experts of a layer end
    notes: tuple[str, ...] = ()  # parts of those that describe others and are not loaded
    bits_by_type: Mapping[str, int] = field(default_factory=dict)  # of a code, where layers differ


@dataclass(frozen=True)
class MatmulCosts:
    """How the layers of a quantization choice are multiplied, and how much memory a matmul needs."""

    unpacked_bytes: int = 0  # of a number in the copy that a product makes of a whole weight; 0: no copy
    has_kernels: bool = False  # the local engine has its own kernels for them, which make no copy
    may_round_rows: bool = False  # rows may be quantized, too
    cpu_pass_bytes: int = 0  # for each position and input on a CPU, besides the result


@dataclass
class QuantizationConfig:
    """Config of quantization=none, and base class of all quantization choices.

    Weights keep model.dtype or the checkpoint's format.
    """

    name: ClassVar[str] = "none"

    library: ClassVar[QuantizationLibrary] = QuantizationLibrary()
    source: ClassVar[CheckpointSource] = CheckpointSource.plain
    own_layers: ClassVar[OwnLayers | None] = None  # None: layers of the library
    packed: ClassVar[bool] = False  # whether linear layers are quantized in memory
    method: ClassVar[str] = ""  # `quant_method` in the config.json of its checkpoints
    # the modules that define the classes of its layers, or of their weights
    holders: ClassVar[tuple[str, ...]] = ()
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames()  # of its checkpoints
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
        default=False,
        kw_only=True,
        repr=False,
        metadata={"counts": NotInIdentity("runs what is refused without it")},
    )

    def compute_weight_nbytes(self, num_outputs: int, num_weights: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes of a linear layer's weight in memory, and of its quantization constants."""
        return num_weights * dtype_bytes, 0

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        return MatmulCosts()

    @property
    def has_int8_activations(self) -> bool:
        """Whether the runner's layers round activations to 8 bits, in groups with one scale each."""
        return False

    @property
    def depends_on_batch(self) -> bool:
        """Whether the output of a sequence depends on the other sequences in its batch."""
        return False

    def build_load_arguments(self) -> dict[str, Any]:
        """Return the `from_pretrained` arguments that quantize an unquantized checkpoint."""
        return {}

    @classmethod
    def parse_stored_format(cls, stored_config: dict[str, Any]) -> StoredFormat | None:  # noqa: ARG003
        """Parse the quantization_config section of a config.json. Returns None if another library
        wrote it.
        """
        return None

    def supports_family(self, family: str, layer_by_layer: bool) -> bool:
        """Whether the linear layers of a model family can be quantized.

        layer_by_layer: one by one after the load, instead of all during the load.
        """
        return family not in DERIVED_LINEAR

    def require_packages(self, subject: str = "") -> None:
        """Raise ConfigError with an install command if a required package is not installed."""
        missing = [name for name in self.library.packages if find_spec(name) is None]
        if missing:
            are = "is" if len(missing) == 1 else "are"
            raise ConfigError(
                f"{subject or f'quantization={self.name}'} needs {' and '.join(missing)}, which {are} not installed: "
                f"{self.library.install}{'' if subject else ', or use quantization=none'}",
                code="needs_package",
            )

    @property
    def keys(self) -> dict[str, Any]:
        """Return the config keys of this quantization choice with their values."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in GENERAL_KEYS}

    @property
    def mix_keys(self) -> list[Any]:
        """Return the per-layer settings `skip` and `overrides`. Empty if neither is set."""
        return [self.skip, self.overrides] if self.is_mixed else []

    @property
    def is_mixed(self) -> bool:
        return bool(self.skip or self.overrides)

    @property
    def label(self) -> str:
        """The choice's name with its per-layer overrides, such as `nf4 (layers.0: none; down_proj:
        int8)`.
        """
        parts = [f"{', '.join(self.skip)}: none"] if self.skip else []
        for pattern, value in self.overrides.items():
            parts.append(f"{pattern}: {value.get('name') if isinstance(value, dict) else value}")
        return f"{self.name} ({'; '.join(parts)})" if parts else self.name


@dataclass
class QuantizedConfig(QuantizationConfig, ABC):
    """Base class of choices that quantize weights."""

    packed: ClassVar[bool] = True

    @abstractmethod
    def compute_weight_nbytes(self, num_outputs: int, num_weights: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes of a linear layer's weight in memory, and of its quantization constants."""

    @abstractmethod
    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        """Return how this choice multiplies layers, and the memory that a matmul needs."""

    @abstractmethod
    def build_load_arguments(self) -> dict[str, Any]:
        """Return the arguments for `from_pretrained`."""


@dataclass
class Int8ActivationsConfig(QuantizationConfig):
    """Base class of choices that can round activations to 8 bits before each matmul (int8_activations)."""

    int8_activations: bool = config_field(False, UNLESS_DEFAULT, renamed_from="int8_rows")

    @property
    def has_int8_activations(self) -> bool:
        """Whether int8_activations is set."""
        return self.int8_activations

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        return replace(super().describe_matmul_costs(dtype_bytes), may_round_rows=self.int8_activations)

    @property
    def keys(self) -> dict[str, Any]:
        """Return the config keys without int8_activations, which checkpoints do not store."""
        return {key: value for key, value in super().keys.items() if key != "int8_activations"}

    @property
    def label(self) -> str:
        """The name of the choice, with a suffix if activations are rounded to 8 bits."""
        return f"{super().label}, rows in 8 bits" if self.int8_activations else super().label


@dataclass(frozen=True)
class StoredFormat:
    """How a checkpoint on disk is quantized, in terms of the config group `quantization`."""

    method: str  # quant_method of its config.json
    config: QuantizationConfig  # the choice with the checkpoint's own keys, as the loaded model will have it
    bits: int
    name: str  # the choice's, or the checkpoint's name of a variant that no choice makes
    matched: bool = True  # False: a variant of the method that no choice makes
    known: bool = True  # False: a method without a choice
    refusal: Note | None = None  # why the runner cannot read this variant
    note: Note | None = None  # what of it is not used

    def count_weights(self, nbytes: int, dtype: str) -> int:
        """Return how many weights are encoded in `nbytes` bytes of codes with this dtype."""
        return nbytes * 8 // self.config.tensors.bits_by_type.get(dtype, self.bits)

    def __str__(self) -> str:
        keys = ", ".join(f"{key}={value}" for key, value in self.config.keys.items())
        return f"{self.name} by {self.method}" + (f" ({keys})" if keys else "")

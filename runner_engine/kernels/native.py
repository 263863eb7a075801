"""Loads the engine's compiled C kernels with ctypes.

They come from a wheel for this processor, or are built here. If neither works, or the check of
the library fails, `load_kernels()` returns None and plain torch does the same work.
RUNNER_NATIVE=0 turns them off.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch

from runner_base import RunnerError, processor
from runner_base.notes import Note, note
from runner_engine.kernels import building, c_interface
from runner_engine.kernels.kernel_errors import build_kernel_refusal_error

log = logging.getLogger(__name__)

FORMATS = {torch.bfloat16: "bf16", torch.float32: "f32"}
TILE_PROBLEMS = (  # by tiles_state in tile_products.h
    None,
    note("tiles_unknown"),
    note("tiles_not_allowed"),
    note("tiles_fail"),
    note("tiles_inexact"),
)

_PTR, _INT, _FLOAT, _THREADS = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SIGNATURES: dict[str, list[Any]] = {
    "store": [_PTR] * 3 + [_INT] * 5 + [_PTR, _PTR, _THREADS],
    "rotate": [_PTR, _INT, _INT, _INT, _THREADS],
    "argmax": [_PTR, _INT, _INT, _PTR, _THREADS],
    "norm": [_PTR, _PTR, _INT, _INT, _FLOAT, _PTR, _THREADS],
    "sample": [_PTR] + [_INT] * 4 + [_PTR, _INT] + [_PTR] * 4 + [_INT, _PTR, _THREADS],
    "attend": [_PTR, _PTR, _INT, _PTR, _PTR]
    + [_INT] * 5
    + [_PTR] * 3
    + [_FLOAT, _FLOAT, _PTR, _INT]
    + [_PTR] * 6
    + [_INT, _THREADS],
    "fused_forward": [_PTR] * 3 + [_THREADS],
    "experts": [_PTR, _INT, _PTR, _PTR, _PTR, _INT, _PTR, _INT, _PTR, _THREADS],
    "product": [_PTR, _INT, _INT, _PTR, _PTR, _INT, _PTR, _THREADS],
    "rows_of_blocks": [_PTR, _INT, _INT, _PTR, _PTR, _THREADS],
    "attend_shared": [_PTR, _INT, _INT, _INT, _PTR, _INT, _PTR]
    + [_INT] * 6
    + [_PTR, _FLOAT, _FLOAT]
    + [_PTR] * 3
    + [_INT, _THREADS],
    "convolve": [_PTR, _PTR, _INT, _INT, _INT, _PTR, _INT, _PTR, _PTR, _THREADS],
    "delta_rule": [_PTR, _PTR, _INT, _INT, _INT] + [_PTR] * 6 + [_THREADS],
    "scan_heads": [_PTR, _PTR, _INT, _INT, _INT] + [_PTR] * 5 + [_THREADS],
    "scan_channels": [_PTR, _PTR, _INT, _INT, _INT] + [_PTR] * 4 + [_INT, _PTR, _INT, _PTR, _PTR, _THREADS],
    "scan_numbers": [_PTR, _INT, _PTR, _INT, _INT, _INT] + [_PTR] * 7 + [_THREADS],
}
for _name in ("store", "attend", "attend_shared"):  # the same over keys and values in bytes
    _SIGNATURES[f"{_name}_bytes"] = _SIGNATURES[_name]
_FOR_ALL_FORMATS = ("sample",)
_RECURRENT = ("convolve", "delta_rule", "scan_heads", "scan_channels", "scan_numbers")
_IN_ALL_LIBRARIES = ("sample", "argmax", "norm")  # in both formats
# by what C adds to MISSING_UNIT (checks.h)
_MISSING = (building.PACKED, building.KV_BYTES, building.RECURRENT)
# no number of a call selects memory; the others return what is wrong
_UNCHECKED = ("argmax", "norm", "sample")


class StructureMismatch(Exception):
    """Raised if structures have different memory layouts in C and Python."""


class Kernels:
    """Functions of a compiled kernel library, for float32 and bfloat16."""

    def __init__(self, library: ctypes.CDLL, features: frozenset[str] = frozenset()) -> None:
        self._functions: dict[tuple[str, torch.dtype | None], Any] = {}
        self.features = features
        self._bind_c_functions(library)
        self.is_kept = building.is_in_user_cache(self.file)

    def _bind_c_functions(self, library: ctypes.CDLL) -> None:
        if wrong := c_interface.find_differing_c_constants(library):
            raise StructureMismatch("; ".join(wrong))
        # only for processors with wide products of bytes
        self.has_quantized = hasattr(library, "has_quantized")
        self.file = Path(library._name)
        self.vectors = (ctypes.c_char_p.in_dll(library, "vector_instructions").value or b"").decode()
        self._tiles_state = library.tiles_state if hasattr(library, "tiles_state") else None
        self.panel_width = ctypes.c_int64.in_dll(library, "panel_width").value
        for name, signature in _SIGNATURES.items():
            for dtype, suffix in [(None, "")] if name in _FOR_ALL_FORMATS else FORMATS.items():
                if _find_required_kernel_features(name, dtype) <= self.features:
                    function = getattr(library, f"{name}_{suffix}" if suffix else name)
                    function.argtypes, function.restype = (signature, None if name in _UNCHECKED else _INT)
                    self._functions[name, dtype] = function
                else:
                    self._functions[name, dtype] = partial(self._load_features_and_call, name, dtype)

    def _load_features_and_call(self, function_name: str, dtype: torch.dtype | None, *arguments: Any) -> Any:
        self.load_kernels_with_features(_find_required_kernel_features(function_name, dtype))
        return self._functions[function_name, dtype](*arguments)

    def load_kernels_with_features(self, features: frozenset[str]) -> None:
        """Switch to a kernel library that also uses these processor features.

        Compiles the library if necessary.
        """
        compiler = processor.find_c_compiler()
        try:
            if compiler is None:
                raise FileNotFoundError("the C compiler is gone")
            library = ctypes.CDLL(str(building.ensure_compiled_library(compiler, self.features | features)))
        except building.FAILURES as error:
            raise RunnerError(
                f"the C kernels for {', '.join(sorted(features))} could not be compiled: "
                f"{_format_error(error)}. Set RUNNER_NATIVE=0 to use torch instead, which is slower",
                code="failed",
            ) from error
        self.features |= features
        self._bind_c_functions(library)

    @cached_property
    def tile_kernel_problem(self) -> Note | None:
        """Reason why matmul with AMX tiles does not work on this machine, or None if it works."""
        if "amx" in processor.parse_disabled_cpu_features():
            return note("amx_left_out", variable=processor.LEFT_OUT)
        return TILE_PROBLEMS[1 if self._tiles_state is None else self._tiles_state()]

    def name_vector_instructions(self, dtype: torch.dtype) -> str:
        """Return the name of the vector instructions that multiply this dtype."""
        return self.vectors if dtype == torch.bfloat16 else self.vectors.removesuffix(" with bfloat16")

    def has_function(self, function_name: str, dtype: torch.dtype) -> bool:
        return (function_name, dtype) in self._functions

    def __call__(self, function: str, dtype: torch.dtype | None, *arguments: Any) -> None:
        """Call a C kernel with as many threads as torch uses.

        The dtype is None for a kernel with a single version for all dtypes. Raises IndexError, before
        anything is done, if an argument points beyond its memory.
        """
        refusal = self._functions[function, dtype](*arguments, torch.get_num_threads())
        while refusal and refusal >> 32 == c_interface.Refusal.MISSING_UNIT:
            feature = _MISSING[refusal & 0xFFFFFFFF]
            if feature in self.features:
                break
            self.load_kernels_with_features(frozenset({feature}))
            refusal = self._functions[function, dtype](*arguments, torch.get_num_threads())
        if refusal:
            raise build_kernel_refusal_error(refusal, function)


def _find_required_kernel_features(function_name: str, dtype: torch.dtype | None) -> frozenset[str]:
    of_format = (
        {building.FLOAT32} if dtype is torch.float32 and function_name not in _IN_ALL_LIBRARIES else set()
    )
    of_keys = {building.KV_BYTES} if function_name.endswith("_bytes") or function_name == "rotate" else set()
    of_layers = {building.RECURRENT} if function_name in _RECURRENT else set()
    return frozenset(of_format | of_keys | of_layers)


def get_tensor_address(tensor: torch.Tensor, dtype: torch.dtype, *shape: int) -> int:
    """Return the memory address of a tensor for C.

    Raises ValueError for an unexpected dtype, shape or memory layout.
    """
    if (
        tensor.dtype is not dtype
        or tensor.shape != shape
        or not tensor.is_contiguous()
        or tensor.device.type != "cpu"
    ):
        raise ValueError(
            f"C expects a contiguous CPU tensor {dtype} {list(shape)}, not "
            f"{tensor.dtype} {list(tensor.shape)} with strides {tensor.stride()} on {tensor.device}"
        )
    return tensor.data_ptr()


def get_optional_tensor_address(tensor: torch.Tensor | None, dtype: torch.dtype, *shape: int) -> int | None:
    return None if tensor is None else get_tensor_address(tensor, dtype, *shape)


@cache
def load_kernels() -> Kernels | None:
    """Load the C kernels, and compile them if necessary.

    Returns None if they are unavailable, and logs the reason.
    """
    if brought := _load_wheel_kernels():
        return brought
    compiler = processor.find_c_compiler()
    if compiler is None:
        log.info(
            "The C kernels are disabled: no C compiler was found, or RUNNER_NATIVE=0 is set. "
            "torch replaces the kernels, which is slower"
        )
        return None
    try:
        library = building.ensure_compiled_library(compiler)
        try:
            return Kernels(ctypes.CDLL(str(library)))
        except (OSError, AttributeError):  # damaged: once more, from the source
            library.unlink(missing_ok=True)
            return Kernels(ctypes.CDLL(str(building.ensure_compiled_library(compiler))))
    except StructureMismatch as error:
        log.warning(
            "the C kernels are unusable, so torch replaces them, which is slower: %s", str(error)[:300]
        )
    except building.FAILURES as error:
        log.warning(
            "the C kernels could not be compiled, so torch replaces them, which is slower: %s",
            _format_error(error),
        )
    return None


def _load_wheel_kernels() -> Kernels | None:
    file = building.find_wheel_library()
    if file is None:
        return None
    try:
        return Kernels(ctypes.CDLL(str(file)), building.FEATURES)
    except (OSError, AttributeError, StructureMismatch) as error:  # an older libc, say
        log.warning(
            "the C kernels in the wheel are unusable, so the kernels are compiled again: %s",
            _format_error(error),
        )
        return None


def _format_error(error: Exception) -> str:
    return str(getattr(error, "stderr", None) or error).strip()[:300]

"""The compiled kernels of the engine: the functions of `kernels.c` and its headers, bound through
ctypes.

They are those that a wheel brings for this processor, or are built here. Where neither can be had,
or the check of the library fails, `kernels()` is None and plain torch does the same work.
RUNNER_NATIVE=0 turns it off.
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
from runner_engine.kernels import building, shared_numbers
from runner_engine.kernels.refusals import error_of

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


class DifferentStructures(Exception):
    """C and Python would read each other's memory wrongly."""


class Kernels:
    """The functions of the library, for both number formats."""

    def __init__(self, library: ctypes.CDLL, features: frozenset[str] = frozenset()) -> None:
        self._functions: dict[tuple[str, torch.dtype | None], Any] = {}
        self.features = features
        self._use(library)
        self.is_kept = building.is_kept(self.file)

    def _use(self, library: ctypes.CDLL) -> None:
        if wrong := shared_numbers.differences(library):
            raise DifferentStructures("; ".join(wrong))
        # only for processors with wide products of bytes
        self.has_quantized = hasattr(library, "has_quantized")
        self.file = Path(library._name)
        self.vectors = (ctypes.c_char_p.in_dll(library, "vector_instructions").value or b"").decode()
        self._tiles_state = library.tiles_state if hasattr(library, "tiles_state") else None
        self.panel_width = ctypes.c_int64.in_dll(library, "panel_width").value
        for name, signature in _SIGNATURES.items():
            for dtype, suffix in [(None, "")] if name in _FOR_ALL_FORMATS else FORMATS.items():
                if _features_of(name, dtype) <= self.features:
                    function = getattr(library, f"{name}_{suffix}" if suffix else name)
                    function.argtypes, function.restype = (signature, None if name in _UNCHECKED else _INT)
                    self._functions[name, dtype] = function
                else:
                    self._functions[name, dtype] = partial(self._load_and_call, name, dtype)

    def _load_and_call(self, name: str, dtype: torch.dtype | None, *arguments: Any) -> Any:
        self.load(_features_of(name, dtype))
        return self._functions[name, dtype](*arguments)

    def load(self, features: frozenset[str]) -> None:
        """Go on with a library that has these features, too, built if necessary."""
        compiler = processor.c_compiler()
        try:
            if compiler is None:
                raise FileNotFoundError("the C compiler is gone")
            library = ctypes.CDLL(str(building.library(compiler, self.features | features)))
        except building.FAILURES as error:
            raise RunnerError(
                f"the kernels for {', '.join(sorted(features))} could not be built: {_reason(error)}; "
                "RUNNER_NATIVE=0 leaves their work to torch, which takes longer",
                code="failed",
            ) from error
        self.features |= features
        self._use(library)

    @cached_property
    def tiles_problem(self) -> Note | None:
        """Why products by tiles (AMX) cannot be used here, None if they can: found out by using
        them."""
        if "amx" in processor.left_out():
            return note("amx_left_out", variable=processor.LEFT_OUT)
        return TILE_PROBLEMS[1 if self._tiles_state is None else self._tiles_state()]

    def vectors_for(self, dtype: torch.dtype) -> str:
        """Name what numbers of this format are multiplied with."""
        return self.vectors if dtype == torch.bfloat16 else self.vectors.removesuffix(" with bfloat16")

    def has(self, name: str, dtype: torch.dtype) -> bool:
        """Whether this processor has a function for a number format."""
        return (name, dtype) in self._functions

    def __call__(self, name: str, dtype: torch.dtype | None, *arguments: Any) -> None:
        """Call a function on as many threads as torch uses; dtype None: it has only one version.

        IndexError where a number among the arguments points beyond the memory that it is for:
        nothing was done then.
        """
        refusal = self._functions[name, dtype](*arguments, torch.get_num_threads())
        while refusal and refusal >> 32 == shared_numbers.Refusal.MISSING_UNIT:
            feature = _MISSING[refusal & 0xFFFFFFFF]
            if feature in self.features:
                break
            self.load(frozenset({feature}))
            refusal = self._functions[name, dtype](*arguments, torch.get_num_threads())
        if refusal:
            raise error_of(refusal, name)


def _features_of(name: str, dtype: torch.dtype | None) -> frozenset[str]:
    of_format = {building.FLOAT32} if dtype is torch.float32 and name not in _IN_ALL_LIBRARIES else set()
    of_keys = {building.KV_BYTES} if name.endswith("_bytes") or name == "rotate" else set()
    of_layers = {building.RECURRENT} if name in _RECURRENT else set()
    return frozenset(of_format | of_keys | of_layers)


def pointer(tensor: torch.Tensor, dtype: torch.dtype, *shape: int) -> int:
    """Return the address of a tensor that C reads or writes; ValueError unless it is as C expects
    it."""
    if (
        tensor.dtype is not dtype
        or tensor.shape != shape
        or not tensor.is_contiguous()
        or tensor.device.type != "cpu"
    ):
        raise ValueError(
            f"C expects {dtype} {list(shape)}, contiguous and on the CPU, and not {tensor.dtype} {list(tensor.shape)} "
            f"with strides {tensor.stride()} on {tensor.device}"
        )
    return tensor.data_ptr()


def pointer_or_none(tensor: torch.Tensor | None, dtype: torch.dtype, *shape: int) -> int | None:
    """As `pointer`, for a tensor that may be absent."""
    return None if tensor is None else pointer(tensor, dtype, *shape)


@cache
def kernels() -> Kernels | None:
    """Return the kernels, built if necessary; None if they are unavailable, and the log says
    why."""
    if brought := _of_wheel():
        return brought
    compiler = processor.c_compiler()
    if compiler is None:
        log.info(
            "there is no C compiler, or RUNNER_NATIVE=0: attention is computed by torch alone, which is slower"
        )
        return None
    try:
        library = building.library(compiler)
        try:
            return Kernels(ctypes.CDLL(str(library)))
        except (OSError, AttributeError):  # damaged: once more, from the source
            library.unlink(missing_ok=True)
            return Kernels(ctypes.CDLL(str(building.library(compiler))))
    except DifferentStructures as error:
        log.warning("the kernels are not used, torch does their work more slowly: %s", str(error)[:300])
    except building.FAILURES as error:
        log.warning("kernels.c could not be built, torch does its work more slowly: %s", _reason(error))
    return None


def _of_wheel() -> Kernels | None:
    file = building.of_wheel()
    if file is None:
        return None
    try:
        return Kernels(ctypes.CDLL(str(file)), building.FEATURES)
    except (OSError, AttributeError, DifferentStructures) as error:  # an older libc, say
        log.warning("the wheel's kernels cannot be used here, others are built: %s", _reason(error))
        return None


def _reason(error: Exception) -> str:
    return str(getattr(error, "stderr", None) or error).strip()[:300]

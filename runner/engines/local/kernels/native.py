"""The compiled kernels of the engine: `kernels.c` and its headers, built once by the machine's C compiler.

Without a compiler, or if the build or its check fails, `kernels()` is None and plain torch does the same work.
RUNNER_NATIVE=0 turns it off.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from runner.core import machine

log = logging.getLogger(__name__)

LANES = 16  # keys lie in blocks of this many places
MAX_GROUP = 16
MAX_DIM = 512
SOURCE = "kernels.c"  # includes the headers beside it
MATH = "-fno-math-errno -fno-trapping-math -fno-signed-zeros -ffp-contract=fast"
FLAGS = f"-O3 -march=native -fopenmp {MATH} -w -shared -fPIC"
FORMATS = {torch.bfloat16: "bf16", torch.float32: "f32"}
PRODUCTS = ("product", "fused_forward")  # in bfloat16 only where the processor has instructions for them

_PTR, _INT, _FLOAT, _THREADS = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SIGNATURES: dict[str, list[Any]] = {
    "softmax": [_PTR, _INT, _INT, _PTR, _PTR, _FLOAT, _FLOAT, _PTR, _PTR, _THREADS],
    "store": [_PTR] * 3 + [_INT] * 4 + [_PTR, _PTR, _THREADS],
    "argmax": [_PTR, _INT, _INT, _PTR, _THREADS],
    "norm": [_PTR, _PTR, _INT, _INT, _FLOAT, _PTR, _THREADS],
    "sample": [_PTR] + [_INT] * 4 + [_PTR, _INT] + [_PTR] * 4 + [_INT, _PTR, _THREADS],
    "attend": [_PTR] * 4 + [_INT] * 5 + [_PTR] * 3 + [_FLOAT, _FLOAT, _PTR, _INT] + [_PTR] * 6 + [_THREADS],
    "fused_forward": [_PTR] * 3 + [_THREADS],
    "product": [_PTR, _INT, _INT, _PTR, _PTR, _PTR, _THREADS],
    "attend_shared": [_PTR, _INT, _INT, _PTR, _INT, _PTR]
    + [_INT] * 6
    + [_PTR, _FLOAT, _FLOAT]
    + [_PTR] * 3
    + [_THREADS],
}
_FOR_ALL_FORMATS = ("sample",)


class Kernels:
    """The functions of the library, for both number formats."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions: dict[tuple[str, torch.dtype | None], Any] = {}
        self.has_shared = hasattr(library, "attend_shared_f32")  # only for processors with wide registers
        self.has_quantized = hasattr(library, "has_quantized")  # and for those with products of bfloat16 and of bytes
        self.panel_width = ctypes.c_int64.in_dll(library, "panel_width").value
        for name, signature in _SIGNATURES.items():
            if name == "attend_shared" and not self.has_shared:
                continue
            for dtype, suffix in [(None, "")] if name in _FOR_ALL_FORMATS else FORMATS.items():
                if name in PRODUCTS and dtype == torch.bfloat16 and not self.has_shared:
                    continue
                function = getattr(library, f"{name}_{suffix}" if suffix else name)
                function.argtypes, function.restype = signature, None
                self._functions[name, dtype] = function

    def has(self, name: str, dtype: torch.dtype) -> bool:
        """Whether this processor has a function for a number format."""
        return (name, dtype) in self._functions

    def __call__(self, name: str, dtype: torch.dtype | None, *arguments: Any) -> None:
        """Call a function on as many threads as torch uses; dtype None: it has only one version."""
        self._functions[name, dtype](*arguments, torch.get_num_threads())


@cache
def kernels() -> Kernels | None:
    """Return the kernels, built if necessary; None if they are unavailable, and the log says why."""
    compiler = machine.c_compiler()
    if compiler is None:
        log.info("there is no C compiler, or RUNNER_NATIVE=0: attention is computed by torch alone, which is slower")
        return None
    try:
        library = _build(compiler)
        try:
            return Kernels(ctypes.CDLL(str(library)))
        except (OSError, AttributeError):  # damaged: once more, from the source
            library.unlink(missing_ok=True)
            return Kernels(ctypes.CDLL(str(_build(compiler))))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        log.warning("kernels.c could not be built, torch does its work more slowly: %s", str(reason).strip()[:300])
        return None


def argmax(scores: torch.Tensor) -> torch.Tensor:
    """Return the place of the largest number of each row [B, V], -1 for a row with NaN.

    torch would first convert 16-bit numbers in a copy, which takes longer.
    """
    compiled = for_logits(scores)
    if compiled is None:
        best = scores.float().argmax(dim=-1)  # the first NaN, where there is one
        return best.masked_fill_(scores.gather(-1, best[:, None])[:, 0].isnan(), -1)
    scores = scores.contiguous()
    best = torch.empty(scores.shape[0], dtype=torch.long)
    compiled("argmax", scores.dtype, scores.data_ptr(), scores.shape[0], scores.shape[1], best.data_ptr())
    return best


class RowSettings(NamedTuple):
    """How each row of a batch is sampled, as C reads it."""

    numbers: torch.Tensor  # float64 [B, P]: the parameters in the order of the table in config/sampling.py
    seen: torch.Tensor  # int64 [B]: address of the marks [V] of tokens in prompt and answer, 0: no penalty
    counts: torch.Tensor  # int64 [B]: address of the counts [V] of the answer's tokens, 0: no penalty


def sample(compiled: Kernels, logits: torch.Tensor, settings: RowSettings, uniform: torch.Tensor) -> torch.Tensor:
    """Return the next token of each row [B, V] by its settings and its random number, -1 for a row with NaN."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    count, width = logits.shape
    share = 2 * (int(2.05 * width) + 128)  # numbers for each thread; an even number
    workspace = torch.empty(torch.get_num_threads() * share, dtype=torch.float32)
    tokens = torch.empty(count, dtype=torch.long)
    compiled(
        "sample", None, logits.data_ptr(), logits.stride(0), int(logits.dtype == torch.bfloat16), count, width,
        settings.numbers.data_ptr(), settings.numbers.shape[1], settings.seen.data_ptr(), settings.counts.data_ptr(),
        uniform.data_ptr(), workspace.data_ptr(), share, tokens.data_ptr(),
    )  # fmt: skip
    return tokens


def for_logits(logits: torch.Tensor) -> Kernels | None:
    """Return the kernels if they are available and read such logits."""
    return kernels() if logits.device.type == "cpu" and logits.dtype in FORMATS else None


def _build(compiler: str) -> Path:
    """Compile into the cache, unless the cache has this source for this processor."""
    source = Path(__file__).parent
    text = "".join(path.read_text() for path in sorted(source.glob("*.[ch]")))
    key = hashlib.sha256(f"{text}{compiler}{FLAGS}{_processor()}".encode()).hexdigest()[:16]
    # without a home (an unnamed user in a container), "~" is not expanded, and nothing can be written there
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(home) / "runner"
    library = folder / f"kernels-{key}.so"
    if library.exists():
        return library
    if folder.is_absolute():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
    if not (folder.is_absolute() and folder.is_dir() and os.access(folder, os.W_OK)):
        # no cache: each process builds its own, which takes half a minute
        library = Path(tempfile.mkdtemp(prefix="runner-")) / library.name
    partial = library.with_name(f"{library.name}.{os.getpid()}")
    command = [compiler, *FLAGS.split(), str(source / SOURCE), "-o", str(partial), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    partial.replace(library)  # several processes may build at once: the last one wins, all are the same
    return library


def _processor() -> str:
    """Return the instruction set: different machines may share a cache on a shared disk."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    except OSError:
        return platform.machine() + platform.processor()

"""Products, and attention to shared keys, built alone, and with the tile instructions emulated in
plain C."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import processors
import torch

from runner_base.notes import Note
from runner_engine.kernels import building, native
from runner_engine.kernels.native import Kernels

needs_tile_compiler = processors.needs("bf16", emulation=True)
needs_byte_tile_compiler = processors.needs("bf16", "vnni", emulation=True)
HERE, KERNELS = Path(__file__).parent, Path(native.__file__).parent
# Those of the library, but for what takes long to compile
FLAGS = [
    "-Og",
    "-fopenmp",
    *building.MATH.split(),
    *building.WARNINGS.split(),
    "-Werror",
    "-Wno-unused-function",  # of other units
    "-Wno-unused-parameter",  # as in units.h
    "-shared",
    "-fPIC",
]


def build(
    folder: Path, *flags: str, source: str = "products_only.c", target: Sequence[str] | None = None
) -> Path:
    """Compile a file of tests/support beside the kernels, for AVX-512 with bfloat16 unless a target is given."""
    library = folder / "products.so"
    command = [
        shutil.which("cc") or "cc",
        *FLAGS,
        *(processors.build_flags(vnni=False) if target is None else target),
        *flags,
        f"-I{KERNELS}",
        str(HERE / source),
    ]
    subprocess.run([*command, "-o", str(library), "-lm"], check=True, capture_output=True, text=True)
    return library


class OnlyProducts(Kernels):
    """Kernels that have products of bfloat16 and nothing else."""

    def __init__(self, library: Path, problem: Note | None = None) -> None:
        loaded = ctypes.CDLL(str(library))
        self.loaded, self.file, self.is_kept = loaded, library, False
        self.has_quantized = False
        self.vectors, self.tile_kernel_problem = "emulation", problem
        self.panel_width = ctypes.c_int64.in_dll(loaded, "panel_width").value
        self._functions: dict[tuple[str, torch.dtype | None], Any] = {}
        self._bind("product")

    def _bind(self, *names: str) -> None:
        for name in names:
            function = getattr(self.loaded, f"{name}_bf16")
            function.argtypes, function.restype = native._SIGNATURES[name], ctypes.c_int64
            self._functions[name, torch.bfloat16] = function

    def count(self, name: str) -> int:
        """Return how often something was emulated."""
        return ctypes.c_long.in_dll(self.loaded, f"emulated_{name}").value


class OnlyTiles(OnlyProducts):
    """Kernels that have what tiles compute: attention to shared keys, and products of bfloat16 and
    of bytes."""

    def __init__(self, library: Path, problem: Note | None = None) -> None:
        super().__init__(library, problem)
        self.has_quantized = hasattr(self.loaded, "has_quantized")
        for kernel in ("store", "attend", "attend_shared"):
            self._bind(kernel, f"{kernel}_bytes")


def emulated(folder: Path, flags: Sequence[str] = ()) -> OnlyProducts:
    """Build products whose tile instructions are emulated."""
    return OnlyProducts(build(folder, "-include", str(HERE / "emulated_tiles.h"), *flags))


def emulated_attention(folder: Path, flags: Sequence[str] = ()) -> OnlyTiles:
    """Build attention and products, of bytes too, whose tile instructions are emulated."""
    return OnlyTiles(built_attention(folder, flags))


def built_attention(folder: Path, flags: Sequence[str] = ()) -> Path:
    """Compile attention and products, of bytes too, whose tile instructions are emulated."""
    more, target = ("-include", str(HERE / "emulated_tiles.h")), processors.build_flags()
    return build(folder, *more, *flags, source="tiles_only.c", target=target)


def with_a_mistake(folder: Path, file: str, right: str, wrong: str) -> list[str]:
    """Copy the kernels' files, one of them with a mistake; return the flags that build them,
    quickly."""
    text = (KERNELS / file).read_text()
    assert right in text
    headers = folder / "headers"
    shutil.copytree(KERNELS, headers, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (headers / file).write_text(text.replace(right, wrong))
    return [f"-I{headers}", "-O0"]


def sums_in_the_order_of_tiles(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return products with the sums of TDPBF16PS: of 32 inputs the even and the odd ones apart,
    then both together."""
    missing = -rows.shape[1] % 32
    x, w = (torch.nn.functional.pad(some.double(), (0, missing)) for some in (rows, weight))
    total = torch.zeros(len(rows), len(weight))
    for first in range(0, x.shape[1], 32):
        sums = [torch.zeros(len(rows), len(weight)) for _ in range(2)]
        for at in range(32):
            # exact, as is the sum in 64 bits before rounding
            product = x[:, first + at, None] * w[None, :, first + at]
            sums[at % 2] = (sums[at % 2].double() + product).float()
        total = total + (sums[0] + sums[1])
    return total

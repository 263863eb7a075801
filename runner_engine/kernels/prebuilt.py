"""The kernels that a wheel brings (`make wheel`), compiled for kinds of processors: used before any
compiler is.

They are run like the Python files beside them: who can write there can change those, too. So
nothing is asked about their owner, as it is for libraries in the cache. This imports no torch.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import NamedTuple

from runner_base import processor

FOLDER = Path(__file__).parent / "prebuilt"
# what -march=x86-64-v3 may use
AVX2 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


class Variant(NamedTuple):
    """Kernels for processors with some features."""

    name: str
    machine: str
    flags: str  # for the compiler
    needs: frozenset[str]  # as /proc/cpuinfo names them


# The first one that a processor has all features of is taken. AMX is in the first: it is compiled
# wherever a compiler knows it, and tried at run time.
VARIANTS = (
    Variant(
        "avx512_bf16",
        "x86_64",
        "-march=x86-64-v4 -mavx512vnni -mavx512bf16",
        AVX512 | {"avx512_vnni", "avx512_bf16"},
    ),
    Variant("avx512_vnni", "x86_64", "-march=x86-64-v4 -mavx512vnni", AVX512 | {"avx512_vnni"}),
    Variant("avx512", "x86_64", "-march=x86-64-v4", AVX512),
    Variant("avx_vnni", "x86_64", "-march=x86-64-v3 -mavxvnni", AVX2 | {"avx_vnni"}),
    Variant("avx2", "x86_64", "-march=x86-64-v3", AVX2),
    Variant("neon_bf16", "aarch64", "-march=armv8.2-a+dotprod+bf16", frozenset({"asimd", "asimddp", "bf16"})),
    Variant("neon_dotprod", "aarch64", "-march=armv8.2-a+dotprod", frozenset({"asimd", "asimddp"})),
    Variant("neon", "aarch64", "-march=armv8-a", frozenset({"asimd"})),
)


def library() -> Path | None:
    """Return the library of the wheel for this processor; None if there is none, or if it shall not
    be used.

    RUNNER_NATIVE=0 leaves all kernels out, and RUNNER_CFLAGS asks for a build with these flags. The
    processor has nothing that RUNNER_WITHOUT names.
    """
    if os.environ.get("RUNNER_NATIVE") == "0" or os.environ.get("RUNNER_CFLAGS"):
        return None
    files = {file.name.split(".")[1]: file for file in FOLDER.glob("kernels-*.*.so")}
    if not files:
        return None
    features, here = processor.flags(), platform.machine()
    fitting = (one for one in VARIANTS if one.machine == here and one.name in files and one.needs <= features)
    best = next(fitting, None)
    return files[best.name] if best else None

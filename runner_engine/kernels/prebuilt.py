"""Finds precompiled kernels for this processor in a wheel (`make wheel` compiles them).

They are preferred to a compiler. They are run like the Python files next to them: whoever can
write there can change those, too. So their owner is not checked, as it is for libraries in the
cache. This imports no torch.
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


class PrebuiltVariant(NamedTuple):
    """Kernels that were compiled in advance for processors with certain features."""

    name: str
    machine: str
    flags: str  # for the compiler
    needs: frozenset[str]  # as /proc/cpuinfo names them


# The first one that a processor has all features of is taken. AMX is in the first: it is compiled
# wherever a compiler knows it, and tried at run time.
VARIANTS = (
    PrebuiltVariant(
        "avx512_bf16",
        "x86_64",
        "-march=x86-64-v4 -mavx512vnni -mavx512bf16",
        AVX512 | {"avx512_vnni", "avx512_bf16"},
    ),
    PrebuiltVariant("avx512_vnni", "x86_64", "-march=x86-64-v4 -mavx512vnni", AVX512 | {"avx512_vnni"}),
    PrebuiltVariant("avx512", "x86_64", "-march=x86-64-v4", AVX512),
    PrebuiltVariant("avx_vnni", "x86_64", "-march=x86-64-v3 -mavxvnni", AVX2 | {"avx_vnni"}),
    PrebuiltVariant("avx2", "x86_64", "-march=x86-64-v3", AVX2),
    PrebuiltVariant(
        "neon_bf16", "aarch64", "-march=armv8.2-a+dotprod+bf16", frozenset({"asimd", "asimddp", "bf16"})
    ),
    PrebuiltVariant("neon_dotprod", "aarch64", "-march=armv8.2-a+dotprod", frozenset({"asimd", "asimddp"})),
    PrebuiltVariant("neon", "aarch64", "-march=armv8-a", frozenset({"asimd"})),
)


def find_prebuilt_library() -> Path | None:
    """Return the kernel library for this processor in the wheel.

    Returns None if there is none, or if settings forbid its use.

    RUNNER_NATIVE=0 disables all kernels, and RUNNER_CFLAGS requests a build with these flags. Features
    that RUNNER_WITHOUT names count as absent.
    """
    if os.environ.get("RUNNER_NATIVE") == "0" or os.environ.get("RUNNER_CFLAGS"):
        return None
    files = {file.name.split(".")[1]: file for file in FOLDER.glob("kernels-*.*.so")}
    if not files:
        return None
    features, here = processor.read_cpu_features(), platform.machine()
    fitting = (one for one in VARIANTS if one.machine == here and one.name in files and one.needs <= features)
    best = next(fitting, None)
    return files[best.name] if best else None

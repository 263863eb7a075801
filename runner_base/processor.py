"""The processor: its instructions, those that the engine shall not use (RUNNER_WITHOUT), and the C
compiler for it.

Imports no torch.
"""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from runner_base.errors import ConfigError

LEFT_OUT = "RUNNER_WITHOUT"
# The name, with which flags in /proc/cpuinfo begin → what the compiler is told; tiles are tried at
# run time
FEATURES = {
    "avx2": "-mno-avx2",
    "avx512": "-mno-avx512f",
    "avx512_bf16": "-mno-avx512bf16",
    "avx512_vnni": "-mno-avx512vnni",
    "avx_vnni": "-mno-avxvnni",
    "amx": "",
}


def left_out() -> tuple[str, ...]:
    """Return the features that RUNNER_WITHOUT names, separated by commas."""
    text = os.environ.get(LEFT_OUT, "")
    names = tuple(sorted({name.strip() for name in text.split(",")} - {""}))
    if unknown := [name for name in names if name not in FEATURES]:
        raise ConfigError(
            f"{unknown[0]} is none of {', '.join(FEATURES)}", key=LEFT_OUT, value=text, code="unknown_choice"
        )
    return names


def without_left_out(flags: set[str]) -> set[str]:
    """Return the flags of a processor without those of features that are left out."""
    names = left_out()
    if "avx2" in names:
        names = (*names, "avx512")
    return {flag for flag in flags if not flag.startswith(names)} if names else flags


def compiler_flags() -> list[str]:
    """Return what keeps the compiler from using features that are left out."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return []
    return [FEATURES[name] for name in left_out() if FEATURES[name]]


def c_compiler() -> str | None:
    """Return the C compiler for the engine's kernels; None if there is none, or with
    RUNNER_NATIVE=0."""
    return None if os.environ.get("RUNNER_NATIVE") == "0" else shutil.which(os.environ.get("CC", "cc"))


def has_bfloat16_products() -> bool:
    """Whether the processor multiplies bfloat16 by AVX512; elsewhere bitsandbytes leaves 4-bit
    weights unpacked."""
    return "avx512_bf16" in flags()


def flags() -> set[str]:
    """Return the features that the processor names, without those that are left out."""
    # of x86, of ARM
    named = value_of("/proc/cpuinfo", "flags") or value_of("/proc/cpuinfo", "Features") or ""
    return without_left_out(set(named.split()))


def value_of(file: str | Path, key: str) -> str | None:
    """Return the value of a key in a file of /proc; None if there is no such file or key."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)

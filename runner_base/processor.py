"""CPU features, the features disabled by RUNNER_WITHOUT, and the C compiler. Imports no torch."""

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


def parse_disabled_cpu_features() -> tuple[str, ...]:
    """Return the CPU features that RUNNER_WITHOUT disables (a comma-separated list)."""
    text = os.environ.get(LEFT_OUT, "")
    names = tuple(sorted({name.strip() for name in text.split(",")} - {""}))
    if unknown := [name for name in names if name not in FEATURES]:
        raise ConfigError(
            f"{unknown[0]} is none of {', '.join(FEATURES)}", key=LEFT_OUT, value=text, code="unknown_choice"
        )
    return names


def remove_disabled_cpu_features(flags: set[str]) -> set[str]:
    names = parse_disabled_cpu_features()
    if "avx2" in names:
        names = (*names, "avx512")
    return {flag for flag in flags if not flag.startswith(names)} if names else flags


def build_compiler_flags_disabling_features() -> list[str]:
    """Return the compiler flags that disable the features in RUNNER_WITHOUT."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return []
    return [FEATURES[name] for name in parse_disabled_cpu_features() if FEATURES[name]]


def find_c_compiler() -> str | None:
    """Return the C compiler's path, or None if there is none or RUNNER_NATIVE=0."""
    return None if os.environ.get("RUNNER_NATIVE") == "0" else shutil.which(os.environ.get("CC", "cc"))


def has_bfloat16_matmul() -> bool:
    """Whether the CPU has AVX512-BF16. Without it, bitsandbytes does not pack 4-bit weights."""
    return "avx512_bf16" in read_cpu_features()


def read_cpu_features() -> set[str]:
    """Return the processor's feature flags, except for the features that RUNNER_WITHOUT disables."""
    # of x86, of ARM
    named = read_proc_value("/proc/cpuinfo", "flags") or read_proc_value("/proc/cpuinfo", "Features") or ""
    return remove_disabled_cpu_features(set(named.split()))


def read_proc_value(path: str | Path, key: str) -> str | None:
    """Return the value of a key in a /proc file, or None if the file or key is missing."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)

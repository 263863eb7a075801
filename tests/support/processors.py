"""What the processor of this machine runs, natively or in an emulation, and which one a skipped test needs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from runner_base import processor

EMULATION = Path(__file__).with_name("emulated_avx512.h")
SIMDE = Path("/usr/include/simde/x86/avx512.h")
WITH_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
# A feature → its flags in /proc/cpuinfo, its name, and the processors that have it
FEATURES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "x86": (("sse2",), "x86-64", "Intel or AMD of 64 bits"),
    "avx2": (("avx2",), "AVX2", "Intel Haswell, AMD Zen, or newer"),
    "avx512": (WITH_AVX512, "AVX-512", "Intel Skylake-SP or newer, AMD Zen 4 or newer"),
    "vnni": (
        (*WITH_AVX512, "avx512_vnni"),
        "AVX-512 with products of bytes",
        "Intel Cascade Lake or newer, AMD Zen 4 or newer",
    ),
    "bf16": (
        (*WITH_AVX512, "avx512_bf16"),
        "AVX-512 with bfloat16",
        "Intel Cooper Lake, Sapphire Rapids or newer, AMD Zen 4 or newer",
    ),
    "amx": (("amx_tile", "amx_bf16", "amx_int8"), "AMX", "Intel Sapphire Rapids or newer"),
}
OPPOSITES = {
    "bf16": ("no AVX-512 with bfloat16", "AMD Zen 3 or older, Intel Ice Lake or older"),
    "amx": ("no AMX", "any AMD, Intel Ice Lake or older"),
}
PREFIX = "another processor: needs "
OWN_FLAGS = processor.read_cpu_features()


def has(*features: str) -> bool:
    """Whether this processor has features and RUNNER_WITHOUT leaves none of them out."""
    return OWN_FLAGS.issuperset(flag for one in features for flag in FEATURES[one][0])


def can_emulate() -> bool:
    """Whether AVX-512 can be compiled to AVX2: emulated_avx512.h has what it needs."""
    return OWN_FLAGS.issuperset(("avx2", "fma", "f16c")) and SIMDE.exists()


def reason_without(*features: str, emulation: bool = False) -> str:
    """Return why a test that needs features cannot run here; an empty string where it can.

    emulation: the test compiles kernels, and can also run in the emulation of AVX-512.
    """
    if emulation and shutil.which("cc") is None:
        return "there is no C compiler here"
    missing = [one for one in features if not has(one)]
    if not missing or (emulation and can_emulate()):
        return ""
    needed = "; ".join(f"{FEATURES[one][1]} ({FEATURES[one][2]})" for one in missing)
    is_installable = emulation and "avx2" in OWN_FLAGS
    return f"{PREFIX}{needed}" + (
        ", or its emulation: apt-get install libsimde-dev" if is_installable else ""
    )


def needs(*features: str, emulation: bool = False, why: str = "") -> pytest.MarkDecorator:
    """Skip tests on a processor without features, with the reason: needs("bf16", "vnni").

    why: what the emulation does not cover.
    """
    reason = reason_without(*features, emulation=emulation)
    return pytest.mark.skipif(bool(reason), reason=reason + (f"; {why}" if why else ""))


def require(*features: str, emulation: bool = False, why: str = "") -> None:
    """Skip the running test on a processor without features."""
    if reason := reason_without(*features, emulation=emulation):
        pytest.skip(reason + (f"; {why}" if why else ""))


def require_absent(feature: str) -> None:
    """Skip the running test on a processor with a feature."""
    if has(feature):
        name, examples = OPPOSITES[feature]
        pytest.skip(f"{PREFIX}{name} ({examples})")


def build_flags(*, bf16: bool = True, vnni: bool = True) -> list[str]:
    """Return the compiler's flags for AVX-512 with or without two of its parts, native or emulated."""
    if has("avx512", *["bf16"] * bf16, *["vnni"] * vnni):
        left_out = {"-mno-avx512bf16": not bf16, "-mno-avx512vnni": not vnni}
        return ["-march=native", *(flag for flag, is_left_out in left_out.items() if is_left_out)]
    left_out = {"-DEMULATED_WITHOUT_BF16": not bf16, "-DEMULATED_WITHOUT_VNNI": not vnni}
    return [*emulation_flags(), *(flag for flag, is_left_out in left_out.items() if is_left_out)]


def emulation_flags() -> list[str]:
    """Return the compiler's flags that emulate AVX-512, also on a processor that has a part of it."""
    return ["-march=native", "-mno-avx512f", "-Wno-psabi", "-include", str(EMULATION)]


def summary_lines(reasons: Iterable[str]) -> list[str]:
    """Return the lines for a run's end: how many tests this processor could not run, by what they need."""
    missing = Counter(
        reason[reason.index(PREFIX) + len("another processor: ") :] for reason in reasons if PREFIX in reason
    )
    if has("bf16", "vnni"):
        how = "AVX-512 is this processor's own"
    elif can_emulate():
        how = "AVX-512 with bfloat16 and products of bytes is emulated (SIMDe), the rest is this processor's own"
    else:
        how = "AVX-512 is neither this processor's nor emulated"
    first = f"processor: {how}; {missing.total()} tests could not run on it"
    return [first, *(f"  {count}: {what}" for what, count in missing.most_common())]

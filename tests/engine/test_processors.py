"""The kernels as other processors would run them: with fewer instructions, under emulators, and
with features left out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import processors
import pytest
import torch
from product_files import build, computed, products
from raising import raises

from runner_base import processor
from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_engine.kernels import building, native
from runner_engine.matmul.layer_weights import MatmulWorkspace, multiply_with_kernel
from runner_engine.render.notes import render_engine_note

SUPPORT = Path(__file__).parents[1] / "support"
IS_X86 = processors.has("avx2")
X86 = {
    "x86-64-v2": "narrow vectors",
    "x86-64-v3": "AVX2",
    "x86-64-v4": "AVX-512",
    "x86-64-v4+bf16": "AVX-512 with bfloat16",
}
ARM = {"armv8-a": "NEON", "armv8.6-a+bf16+i8mm": "NEON with bfloat16"}


def checked(program: Path, compiler: str, *flags: str, emulator: tuple[str, ...] = ()) -> str:
    """Build the program that compares the kernels with double precision, run it, and return what it
    says it uses."""
    # units.h passes over those, too
    warnings = [*building.WARNINGS.split(), "-Werror", "-Wno-unused-parameter"]
    command = [compiler, "-Og", "-fopenmp", *building.MATH.split(), *warnings, *flags]
    command += [f"-I{building.FOLDER}", str(SUPPORT / "check_kernels.c"), "-o", str(program), "-lm"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([*emulator, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 15
    return done.stdout.splitlines()[0]


@pytest.mark.thorough
@pytest.mark.slow
@processors.needs("avx2")
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
@pytest.mark.parametrize(
    "level",
    [pytest.param(level, marks=pytest.mark.thorough if level != "x86-64-v3" else ()) for level in X86],
)
def test_a_processor_with_fewer_instructions_multiplies_and_attends(level: str, tmp_path: Path) -> None:
    feature = {"x86-64-v4": "avx512", "x86-64-v4+bf16": "bf16"}.get(level, "")
    if not feature or processors.has(feature):
        march, *more = level.split("+")
        flags = [f"-march={march}", *(f"-mavx512{one}" for one in more)]
    else:
        processors.require(feature, emulation=True)
        flags = processors.build_flags(bf16=feature == "bf16", vnni=False)
    assert checked(tmp_path / "check", "cc", *flags) == X86[level]


@pytest.mark.thorough
@pytest.mark.parametrize("level", list(ARM))
def test_arm_multiplies_and_attends_under_an_emulator(level: str, tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("needs Debian's packages gcc-aarch64-linux-gnu and qemu-user")
    flags, most = (f"-march={level}", "-static"), (emulator, "-cpu", "max")
    assert checked(tmp_path / "check", compiler, *flags, emulator=most) == ARM[level]


@pytest.mark.thorough
@pytest.mark.parametrize("level", list(ARM))
def test_arm_multiplies_every_stored_format_under_an_emulator(level: str, tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    kernels = native.load_kernels()
    if compiler is None or emulator is None or kernels is None:
        pytest.skip(
            "needs Debian's packages gcc-aarch64-linux-gnu and qemu-user, and kernels for this processor"
        )
    program = build(compiler, tmp_path / "arm", f"-march={level}", "-static")
    found = computed([emulator, "-cpu", "max", program], tmp_path)
    workspace, off = MatmulWorkspace(), {torch.float32: 1e-5, torch.bfloat16: 1e-2}
    for one, there in zip(products(kernels.panel_width), found, strict=True):
        here = multiply_with_kernel(kernels, one.rows, one.weights, workspace.get_buffer(one.rows)).float()
        assert (there.float() - here).abs().max() <= off[one.rows.dtype] * here.abs().max(), one.name


def answered(cache: Path, **environment: str) -> dict[str, Any]:
    """Answer questions with the embedded model in a process of its own, one by one and together."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RUNNER_")}
    inherited |= {"XDG_CACHE_HOME": str(cache), "RUNNER_CFLAGS": "-O1"}
    command = [sys.executable, str(SUPPORT / "answering_alone_and_together.py")]
    done = subprocess.run(
        command, cwd=cache, capture_output=True, text=True, check=False, env=inherited | environment
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["alone"] == found["together"], "a row's answer does not depend on the rows beside it"
    assert found["fused"]
    return found


def shown(code: str, **values: object) -> str:
    return render_engine_note(note(code, **values))


@pytest.mark.thorough  # `make test-avx2` leaves features out, too
@processors.needs("bf16", why="an emulation is compiled in, whatever is left out")
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
@pytest.mark.parametrize(("left_out", "expected"), [("avx512_bf16", "AVX-512"), ("avx512", "AVX2")])
def test_a_feature_that_is_left_out_leads_to_the_next_way_with_a_fact(
    left_out: str, expected: str, tmp_path: Path
) -> None:
    found = answered(tmp_path, RUNNER_WITHOUT=left_out)
    assert found["fact"] == f"{shown('panels', vectors=expected)} (RUNNER_WITHOUT={left_out})"
    assert found["notes"] == []


@pytest.mark.thorough
@processors.needs("bf16", emulation=True)
def test_a_job_by_tiles_decodes_few_rows_by_vectors_and_many_by_tiles_and_answers_alike(
    tmp_path: Path,
) -> None:
    """The instructions of tiles are emulated, and AVX-512 where this processor lacks it; all else is the engine as it is."""
    by_avx512 = "" if processors.has("bf16") else " ".join(processors.emulation_flags())
    emulated = f"-O1 {by_avx512} -include {SUPPORT / 'emulated_tiles.h'}"
    tiles = {"RUNNER_PRODUCTS": "tiles", "RUNNER_SHARED_ATTENTION": "tiles", "RUNNER_CFLAGS": emulated}
    found = answered(tmp_path, **tiles)
    vectors = "AVX-512 with bfloat16"
    by_tiles = shown("tiles_from_rows", rows=8, vectors=vectors)
    assert found["fact"] == f"{by_tiles} (by RUNNER_PRODUCTS)"
    assert found["attention"] == f"{by_tiles} (by RUNNER_SHARED_ATTENTION)"
    without = answered(tmp_path, **tiles, RUNNER_WITHOUT="amx")
    reason = shown("amx_left_out", variable="RUNNER_WITHOUT")
    by_panels = f"{shown('panels', vectors=vectors)} (RUNNER_PRODUCTS=tiles: {reason}; RUNNER_WITHOUT=amx)"
    assert without["fact"] == by_panels
    by_vectors = f"{shown('attention_by_vectors', vectors=vectors)} (RUNNER_SHARED_ATTENTION=tiles: {reason})"
    assert without["attention"] == by_vectors
    assert without["notes"].count("forced_way_fails") == 2


def test_features_are_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16"}
    monkeypatch.delenv("RUNNER_WITHOUT", raising=False)
    assert processor.remove_disabled_cpu_features(flags) == flags
    monkeypatch.setenv("RUNNER_WITHOUT", "amx, avx512_bf16")
    assert processor.parse_disabled_cpu_features() == ("amx", "avx512_bf16")
    assert processor.remove_disabled_cpu_features(flags) == {"avx2", "fma", "avx512f", "avx512_vnni"}
    if IS_X86:
        assert processor.build_compiler_flags_disabling_features() == ["-mno-avx512bf16"]
    monkeypatch.setenv("RUNNER_WITHOUT", "avx2")
    assert processor.remove_disabled_cpu_features(flags) == {"fma", "amx_tile", "amx_bf16"}
    monkeypatch.setenv("RUNNER_WITHOUT", "sse")
    with raises(ConfigError, "unknown_choice", "RUNNER_WITHOUT"):
        processor.parse_disabled_cpu_features()


def test_a_skipped_test_names_the_processors_that_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processors, "OWN_FLAGS", {"avx2", "fma", "f16c", "avx512f"})
    monkeypatch.setattr(processors, "SIMDE", tmp_path / "absent.h")
    alone = processors.reason_without("bf16", "amx")
    assert alone.startswith(processors.PREFIX)
    assert "AMD Zen 4" in alone
    assert "AMX (Intel Sapphire Rapids" in alone
    if shutil.which("cc"):
        assert "libsimde-dev" in processors.reason_without("bf16", emulation=True)
        monkeypatch.setattr(processors, "SIMDE", tmp_path)
        assert processors.reason_without("bf16", emulation=True) == ""
        assert "-DEMULATED_WITHOUT_VNNI" in processors.build_flags(vnni=False)
    monkeypatch.setattr(processors, "OWN_FLAGS", {"avx2", "fma", "f16c"})
    assert "libsimde-dev" not in processors.reason_without("bf16")
    lines = processors.summary_lines([f"Skipped: {alone}", "another reason"])
    assert "; 1 tests could not run" in lines[0]
    assert lines[1:] == [f"  1: {alone.removeprefix('another processor: ')}"]
    every = {flag for flags, *_ in processors.FEATURES.values() for flag in flags}
    monkeypatch.setattr(processors, "OWN_FLAGS", every)
    assert processors.reason_without("bf16", "vnni", "amx") == ""
    assert processors.build_flags(vnni=False) == ["-march=native", "-mno-avx512vnni"]
    with pytest.raises(pytest.skip.Exception, match="no AMX"):
        processors.require_absent("amx")

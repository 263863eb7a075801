"""C code that does not compile for another processor is found on this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner_base import processor
from runner_engine.kernels import building
from tools import compile_targets

COMPILER = processor.find_c_compiler() or ""
pytestmark = pytest.mark.skipif(
    not COMPILER or compile_targets.target_flags(COMPILER, "x86-64-v3") is None,
    reason="there is no C compiler for x86 here",
)


@pytest.mark.thorough
def test_a_mistake_for_another_processor_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(building, "UNITS", {})
    monkeypatch.setattr(compile_targets, "SUPPORT", tmp_path)
    monkeypatch.setattr(compile_targets, "TARGETS", ("haswell", "znver4"))
    (tmp_path / "emulated_tiles.h").touch()
    (tmp_path / "tiles_only.c").write_text("int is_right(void) { return 1; }\n")
    assert compile_targets.main() == 0
    (tmp_path / "tiles_only.c").write_text("#ifdef __AVX512BF16__\nunknown_type x;\n#endif\n")
    capsys.readouterr()
    assert compile_targets.main() == 1
    out = capsys.readouterr().out
    assert "znver4: tiles_only.c does not compile" in out
    assert "unknown_type" in out
    assert "haswell: tiles_only.c" not in out


def test_the_whole_compiler_finds_an_instruction_that_a_target_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "UNITS", {})
    monkeypatch.setattr(compile_targets, "SUPPORT", tmp_path)
    monkeypatch.setattr(compile_targets, "TARGETS", ("haswell",))
    (tmp_path / "emulated_tiles.h").touch()
    (tmp_path / "tiles_only.c").write_text("int is_right(void) { return 1; }\n")
    body = "__m512 twice(const float *x) { return _mm512_add_ps(_mm512_loadu_ps(x), _mm512_loadu_ps(x)); }\n"
    (tmp_path / compile_targets.WHOLE).write_text(f"#include <immintrin.h>\nvoid use(__m512);\n{body}")
    assert compile_targets.main() == 1


def test_a_target_that_the_compiler_does_not_know_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile_targets, "TARGETS", ("no_such_processor",))
    assert compile_targets.main() == 1
    assert "no_such_processor: " in capsys.readouterr().out


def test_a_target_without_a_name_is_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compile_targets.SUBSTITUTES, "no_such_processor", "-mavx512bf16")
    assert compile_targets.target_flags(COMPILER, "no_such_processor") == ["-mavx512bf16"]
    flags = compile_targets.target_flags(COMPILER, "znver4")
    assert flags

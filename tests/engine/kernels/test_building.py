"""The kernels are built once for each source, compiler, flags and processor, before a job's time
counts."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import processors
import pytest
import warm_process

from runner_base import processor
from runner_engine.kernels import building
from runner_engine.kernels.building import build_kernels_if_missing

COMPILER = processor.find_c_compiler()
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler is here")
FAKE = """#!/bin/sh
if [ "$1" = --version ]; then echo "cc {version}"; exit; fi
case " $* " in *" -c "*) what=unit;; *) what=library;; esac
while [ "$1" != -o ]; do shift; done
echo $what >> "{log}"
sleep 0.2
echo $what > "$2"
"""
UNITS = [unit for unit, features in building.UNITS.items() if not features]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that notes each build, and a cache of its own."""
    compiler = tmp_path / "cc"
    compiler.write_text(FAKE.format(version="12.2.0", log=tmp_path / "log"))
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RUNNER_NATIVE", raising=False)
    monkeypatch.delenv("RUNNER_CFLAGS", raising=False)
    building._read_compiler_version.cache_clear()
    return compiler


def builds(compiler: Path, of: str = "library") -> int:
    log = compiler.with_name("log")
    return log.read_text().splitlines().count(of) if log.exists() else 0


def test_it_is_built_once_and_says_so(fake: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="runner_engine.kernels.building"):
        assert build_kernels_if_missing() > 0
        assert build_kernels_if_missing() == 0.0
    [said] = caplog.messages
    assert "compiling the C kernels" in said
    assert (builds(fake), builds(fake, "unit")) == (1, len(UNITS))


@pytest.mark.thorough
def test_units_of_a_feature_are_compiled_when_it_is_asked_for_and_the_others_only_once(fake: Path) -> None:
    base = building.ensure_compiled_library(str(fake))
    packed = building.ensure_compiled_library(str(fake), {building.PACKED})
    both = building.ensure_compiled_library(str(fake), [building.PACKED, building.FLOAT32])
    assert len({base, packed, both}) == 3
    assert building.parse_build_key(base) == building.parse_build_key(both)
    assert builds(fake) == 3
    asked = {building.PACKED, building.FLOAT32}
    wanted = [unit for unit, features in building.UNITS.items() if features <= asked]
    assert builds(fake, "unit") == len(wanted)
    assert build_kernels_if_missing([building.FLOAT32, building.PACKED]) == 0.0


@pytest.mark.thorough
def test_a_unit_that_others_can_write_or_that_does_not_link_is_compiled_again(fake: Path) -> None:
    library = building.ensure_compiled_library(str(fake))
    unit = library.with_name(f"{building.parse_build_key(library)}.{UNITS[0]}.o")
    unit.chmod(0o666)
    library.unlink()
    assert building.ensure_compiled_library(str(fake)) == library
    assert builds(fake, "unit") == len(UNITS) + 1
    library.unlink()
    whole = fake.read_text()
    fake.write_text(whole.replace("echo $what >>", "[ $what = unit ] || exit 1; echo $what >>"))
    with pytest.raises(subprocess.CalledProcessError):
        building.ensure_compiled_library(str(fake))
    fake.write_text(whole)
    assert building.ensure_compiled_library(str(fake)) == library
    assert builds(fake, "unit") == 2 * len(UNITS) + 1


def test_every_unit_that_C_names_is_compiled() -> None:
    named = re.findall(
        r"^#define ([A-Z0-9_]+) \d+\b", (building.FOLDER / "units.h").read_text(), re.MULTILINE
    )
    assert sorted(named) == sorted([*building.UNITS, "ALL_UNITS"])


@pytest.mark.thorough
def test_another_version_of_the_compiler_builds_again(fake: Path) -> None:
    build_kernels_if_missing()
    fake.write_text(FAKE.format(version="13.1.0", log=fake.with_name("log")))
    building._read_compiler_version.cache_clear()  # in another process
    build_kernels_if_missing()
    assert builds(fake) == 2
    assert len(list((fake.with_name("cache") / "runner").glob("*.so"))) == 2


@pytest.mark.thorough
def test_other_flags_or_another_processor_build_again(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_kernels_if_missing()
    monkeypatch.setenv("RUNNER_CFLAGS", "-g1")
    build_kernels_if_missing()
    monkeypatch.setattr(building, "_read_processor_features", lambda: "flags: fpu")
    build_kernels_if_missing()
    monkeypatch.setattr(building, "FLAGS", building.FLAGS.replace("-O3", "-O2"))
    build_kernels_if_missing()
    assert builds(fake) == 4


@pytest.mark.thorough
def test_a_clone_elsewhere_uses_the_same_library(
    fake: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    build_kernels_if_missing()
    clone = tmp_path / "clone"
    clone.mkdir()
    for path in building.FOLDER.glob("*.[ch]"):
        (clone / path.name).write_text(path.read_text())
    monkeypatch.setattr(building, "FOLDER", clone)
    build_kernels_if_missing()
    assert builds(fake) == 1
    (clone / "numbers.h").write_text("/* another source */")
    build_kernels_if_missing()
    assert builds(fake) == 2


def test_two_environments_of_a_user_share_the_library(fake: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from runner_engine.kernels.building import build_kernels_if_missing as build; "
        "print(sys.prefix, build() > 0)"
    )
    found = []
    for name in ("first", "second"):
        venv.create(tmp_path / name, symlinks=True)
        environment = os.environ | {"PYTHONPATH": str(building.FOLDER.parents[1])}
        command = [str(tmp_path / name / "bin/python"), "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
        found.append(done.stdout.split())
    assert found == [[str(tmp_path / "first"), "True"], [str(tmp_path / "second"), "False"]]
    assert builds(fake) == 1


def test_processes_that_start_together_build_once(fake: Path) -> None:
    program = "from runner_engine.kernels.building import build_kernels_if_missing; print(build_kernels_if_missing() > 0)"
    several = [
        warm_process.popen([sys.executable, "-c", program], env=dict(os.environ), stdout=subprocess.DEVNULL)
        for _ in range(4)
    ]
    assert [process.wait(timeout=300) for process in several] == [0] * 4
    assert builds(fake) == 1


@pytest.mark.thorough
@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_library_that_others_can_write_is_not_run_but_built_again(fake: Path, mode: int) -> None:
    library = building.ensure_compiled_library(str(fake))
    assert library.parent == fake.with_name("cache") / "runner"
    library.write_text("of a stranger")
    library.chmod(mode)
    assert build_kernels_if_missing() > 0, "built once more"
    assert building.ensure_compiled_library(str(fake)) == library
    assert (library.read_text(), builds(fake)) == ("library\n", 2)
    assert not library.stat().st_mode & 0o022


@pytest.mark.thorough
def test_the_group_loses_its_right_to_write_in_our_cache(fake: Path) -> None:
    folder = fake.with_name("cache") / "runner"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert building.ensure_compiled_library(str(fake)).parent == folder
    assert folder.stat().st_mode & 0o777 == 0o755


STRANGER = 65534


@pytest.mark.sampled(1)
@pytest.mark.parametrize("of", ["file", "folder"])
def test_what_a_stranger_owns_is_not_run(
    fake: Path, of: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    library = building.ensure_compiled_library(str(fake))
    library.write_text("of a stranger")
    strangers = library if of == "file" else library.parent
    stat = os.stat

    def foreign(self: Path, **_: object) -> os.stat_result:
        """As if the file had been made by another user: not everybody who runs this test may change
        an owner."""
        found = stat(self)
        return os.stat_result((*found[:4], STRANGER, *found[5:])) if self == strangers else found

    monkeypatch.setattr(Path, "stat", foreign)
    building._choose_safe_cache_folder.cache_clear()
    try:
        if of == "file":
            assert not building.is_writable_only_by_user(library)
            return
        ours = building.ensure_compiled_library(str(fake))
    finally:
        building._choose_safe_cache_folder.cache_clear()
    assert ours.parent != library.parent
    assert not stat(ours.parent).st_mode & 0o077, "a folder of this process alone"
    assert (ours.read_text(), builds(fake)) == ("library\n", 2)
    assert f"other users can write to the cache {library.parent}, so" in caplog.text


def test_without_a_compiler_nothing_is_built(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_NATIVE", "0")
    assert build_kernels_if_missing() == 0.0
    monkeypatch.delenv("RUNNER_NATIVE")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build_kernels_if_missing() == 0.0
    fake.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("CC", str(fake))
    building._read_compiler_version.cache_clear()
    assert build_kernels_if_missing() == 0.0, "the engine says why when it loads"
    assert builds(fake) == 0


def test_building_needs_no_package() -> None:
    """`make install` builds while packages are being installed; -S leaves out all of them."""
    for module, code in (("runner_engine.kernels.building", 0), ("hydra", 1)):
        command = [sys.executable, "-S", "-c", f"import {module}"]
        done = subprocess.run(command, cwd=building.FOLDER.parents[1], capture_output=True, check=False)
        assert done.returncode == code, done.stderr


TARGETS = (
    "native",
    *(pytest.param(level, marks=pytest.mark.thorough) for level in ("x86-64", "x86-64-v3", "x86-64-v4")),
)


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(
    "level", ["-fsyntax-only", *(pytest.param(level, marks=pytest.mark.thorough) for level in ("-O1", "-O3"))]
)
def test_no_compiler_warns(level: str, compiler: str, target: str, tmp_path: Path) -> None:
    """Warnings are errors here, and not where a user's newer compiler may have others; some need
    optimization."""
    if "x86" in target:
        processors.require("x86")
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} here")
    objects = [tmp_path / f"{unit}.o" for unit in building.UNITS]
    commands = [
        building.build_compile_command(compiler, *pair) for pair in zip(building.UNITS, objects, strict=True)
    ]
    if level != "-fsyntax-only":
        commands.append(building.build_link_command(compiler, objects, tmp_path / "library.so"))
    for command in commands:
        words = [word.replace("-march=native", f"-march={target}").replace("-O3", level) for word in command]
        done = subprocess.run([*words, "-Werror"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

"""Each folder of runner/options/ can be taken away: without it and its entry points all else works, and its tests pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from plug_in_packages import write_package

pytestmark = [pytest.mark.thorough, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[1]
OPTIONS = sorted(path.parent.name for path in (ROOT / "runner" / "options").glob("*/__init__.py"))
KINDS = {"runner.tasks": "task", "runner.models": "model"}  # groups of entry points whose names are choices
DISTRIBUTION = "runner-llm"
# of the tests that stay: the rules of the source tree, the schema, and answers as they are recorded
SAMPLE = (
    "tests/test_house.py",
    "tests/config",
    "tests/golden/test_golden.py::test_answers_are_as_recorded[gsm8k/defaults]",
)


def entry_points_of(pyproject: Path) -> dict[str, dict[str, str]]:
    """Return the entry points of a project by their group."""
    project = tomllib.loads(pyproject.read_text())["project"]
    return {"console_scripts": project["scripts"], **project["entry-points"]}


def is_of(option: str, place: str) -> bool:
    """Whether an entry point names something in an option's folder."""
    return re.match(rf"runner\.options\.{option}\b", place) is not None


def copy_without(option: str, folder: Path) -> None:
    """Copy the project's files but those of an option and its tests, with its entry points left out and installed."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    gone = re.compile(rf"(runner|tests)/options/({option}|\w+/with_{option})/")
    for name in filter(None, listed.split("\0")):
        if not gone.match(name) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    lines = (folder / "pyproject.toml").read_text().splitlines(keepends=True)
    left = [line for line in lines if not re.search(rf'= "runner\.options\.{option}\b', line)]
    assert len(left) < len(lines), f"{option} has no entry point"
    (folder / "pyproject.toml").write_text("".join(left))
    groups = entry_points_of(folder / "pyproject.toml")
    text = "".join(
        f"[{group}]\n{''.join(f'{name} = {place}' + chr(10) for name, place in entries.items())}\n"
        for group, entries in groups.items()
    )
    write_package(folder / "installed", DISTRIBUTION.replace("-", "_"), text)
    (metadata,) = (folder / "installed").glob("*.dist-info/METADATA")
    metadata.write_text(metadata.read_text().replace(DISTRIBUTION.replace("-", "_"), DISTRIBUTION))


class Without:
    """The project without an option."""

    def __init__(self, option: str, folder: Path) -> None:
        self.option, self.folder = option, folder

    def run(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a module of the copy with Python."""
        path = os.pathsep.join(map(str, (self.folder, self.folder / "installed")))
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=cwd or self.folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def output_of(self, *arguments: str, cwd: Path | None = None) -> str:
        """Return what a module prints when it succeeds."""
        done = self.run(*arguments, cwd=cwd)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
        return done.stdout

    def test(self, *arguments: str) -> str:
        """Run pytest in the copy."""
        return self.output_of("pytest", "-q", "-p", "no:cacheprovider", *arguments)


@pytest.fixture(scope="module", params=OPTIONS)
def without(request: pytest.FixtureRequest, made_once: Callable[[str, Callable[[Path], None]], Path]) -> Without:
    """The project without each option."""
    option = request.param
    return Without(option, made_once(f"without_{option}", lambda folder: copy_without(option, folder)))


def test_the_copy_is_what_runs(without: Without) -> None:
    program = (
        "import runner, importlib.metadata as m; print(runner.__file__, *m.distribution('runner-llm').entry_points)"
    )
    found = without.output_of("timeit", "-n1", "-r1", program)
    assert str(without.folder / "runner" / "__init__.py") in found
    assert f"runner.options.{without.option}." not in found


def test_all_other_tests_can_be_collected(without: Without) -> None:
    assert re.search(r"\d{4} tests collected", without.test("--collect-only", "tests"))


def test_quick_commands_and_a_job_work(without: Without, tmp_path: Path) -> None:
    assert "== Groups (group=choice) ==" in without.output_of("runner", "--help", cwd=tmp_path)
    assert "\nmodel:\n" in without.output_of("runner", "--cfg", "job", cwd=tmp_path)
    without.output_of("runner", "-m", "model=stub", "task.limit=3", "task.shots=0,2", "print=none", cwd=tmp_path)
    compared = without.output_of("runner_compare", "--baseline", "task.shots=0", cwd=tmp_path)
    assert "baseline" in compared


def test_its_choices_are_unknown(without: Without, tmp_path: Path) -> None:
    for group, entries in entry_points_of(ROOT / "pyproject.toml").items():
        for name, place in entries.items():
            if group in KINDS and is_of(without.option, place):
                done = without.run("runner", f"{KINDS[group]}={name}", cwd=tmp_path)
                assert done.returncode == 2
                assert f"{KINDS[group]}={name}: no choice for {KINDS[group]} '{name}'" in done.stderr


def test_a_sample_of_the_other_tests_passes(without: Without) -> None:
    assert " passed" in without.test("-n", "2", *SAMPLE)

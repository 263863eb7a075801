"""Each folder of runner/options/ can be taken away, and all: without it and its entry points all
else works."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from copied_tree import CopiedTree, copy_tree
from plug_in_packages import write_package

pytestmark = [pytest.mark.thorough, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[1]
OPTIONS = sorted(path.parent.name for path in (ROOT / "runner" / "options").glob("*/__init__.py"))
ALL = "all"
# groups of entry points whose names are choices
KINDS = {"runner.tasks": "task", "runner.models": "model"}
DISTRIBUTION = "runner-llm"
# The tests that stay, all but the thorough ones, which takes as long as `make test`.
# RUNNER_REST=sample runs a few minutes of them: the rules of the source tree, the schema, messages,
# plans, and answers as they are recorded. RUNNER_REST=tests/options runs those of the other
# options.
SAMPLE = (
    "tests/test_house.py",
    "tests/config/test_schema.py",
    "tests/config/test_messages.py",
    "tests/config/test_meant.py",
    "tests/config/test_help.py",
    "tests/test_plugins.py",
    "tests/tasks/test_base.py",
    "tests/grid/test_plan.py",
    "tests/recorded_runs/test_key_rules.py",
    "tests/golden/test_golden.py",
)
ASKED = os.environ.get("RUNNER_REST", "tests")
REST = SAMPLE if ASKED == "sample" else tuple(ASKED.split())


def entry_points_of(pyproject: Path) -> dict[str, dict[str, str]]:
    """Return the entry points of a project by their group."""
    project = tomllib.loads(pyproject.read_text())["project"]
    return {"console_scripts": project["scripts"], **project["entry-points"]}


def is_of(option: str, place: str) -> bool:
    """Whether an entry point names something in an option's folder."""
    return re.match(rf"runner\.options\.{pattern_of(option)}\b", place) is not None


def pattern_of(option: str) -> str:
    """Return a pattern for the name of an option's folder, or of all."""
    return f"({'|'.join(OPTIONS)})" if option == ALL else option


def copy_without(option: str, folder: Path) -> None:
    """Copy the project's files but those of an option and its tests, with its entry points left
    out."""
    pattern = pattern_of(option)
    copy_tree(folder, rf"(runner|tests)/options/({pattern}|\w+/with_{pattern})/")
    lines = (folder / "pyproject.toml").read_text().splitlines(keepends=True)
    left = [line for line in lines if not re.search(rf'= "runner\.options\.{pattern}\b', line)]
    assert len(left) < len(lines), f"{option} has no entry point"
    (folder / "pyproject.toml").write_text("".join(left))


class Without(CopiedTree):
    """The project without an option."""

    def __init__(self, option: str, folder: Path, home: Path) -> None:
        super().__init__(folder, home)
        self.option = option
        groups = entry_points_of(folder / "pyproject.toml")
        text = "".join(
            f"[{group}]\n{''.join(f'{name} = {place}' + chr(10) for name, place in entries.items())}\n"
            for group, entries in groups.items()
        )
        write_package(self.site, DISTRIBUTION.replace("-", "_"), text)
        for command, place in groups["console_scripts"].items():
            module, _, function = place.partition(":")
            script = self.home / "bin" / command
            python = self.home / "bin" / "python"
            script.write_text(
                f"#!{python}\nfrom {module} import {function}\nraise SystemExit({function}())\n"
            )
            script.chmod(0o755)
        (metadata,) = self.site.glob(f"{DISTRIBUTION.replace('-', '_')}-*.dist-info/METADATA")
        metadata.write_text(metadata.read_text().replace(DISTRIBUTION.replace("-", "_"), DISTRIBUTION))


@pytest.fixture(scope="module", params=[*OPTIONS, ALL])
def without(
    request: pytest.FixtureRequest,
    made_once: Callable[[str, Callable[[Path], None]], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Without:
    """The project without each option."""
    option = request.param
    copy = made_once(f"without_{option}", lambda folder: copy_without(option, folder))
    return Without(option, copy, tmp_path_factory.mktemp("environment"))


def test_the_copy_is_what_runs(without: Without) -> None:
    program = "import runner, importlib.metadata as m; print(runner.__file__, *m.distribution('runner-llm').entry_points)"
    found = without.output_of("timeit", "-n1", "-r1", program)
    assert str(without.folder / "runner" / "__init__.py") in found
    assert not re.search(rf"runner\.options\.{pattern_of(without.option)}\.", found)


def test_all_other_tests_can_be_collected(without: Without) -> None:
    done = without.run_tests("--collect-only", "tests")
    assert done.returncode == 0, done.stdout[-6000:]
    assert re.search(r"\d{4} tests collected", done.stdout)


def test_quick_commands_and_a_job_work(without: Without, tmp_path: Path) -> None:
    assert "\nGroups: GROUP=CHOICE" in without.output_of("runner", "--help", cwd=tmp_path)
    assert "\nmodel:\n" in without.output_of("runner", "--cfg", "job", cwd=tmp_path)
    without.output_of(
        "runner", "-m", "model=stub", "task.limit=3", "task.shots=0,2", "print=none", cwd=tmp_path
    )
    compared = without.output_of("runner_compare", "--baseline", "task.shots=0", cwd=tmp_path)
    assert "baseline" in compared


def test_its_choices_are_unknown(without: Without, tmp_path: Path) -> None:
    for group, entries in entry_points_of(ROOT / "pyproject.toml").items():
        for name, place in entries.items():
            if group in KINDS and is_of(without.option, place):
                done = without.run("runner", f"{KINDS[group]}={name}", cwd=tmp_path)
                assert done.returncode == 2
                assert f"{KINDS[group]}={name}: unknown choice" in done.stderr


def test_the_other_tests_pass(without: Without) -> None:
    """RUNNER_REST=sample pytest tests/test_options.py -k OPTION: a few minutes for one option."""
    done = without.run_tests("-n", "2", "--dist", "worksteal", "-m", "not thorough", *REST)
    assert done.returncode == 0, done.stdout[-20000:]
    print(done.stdout.splitlines()[-1])

"""The recipes of CONTRIBUTING.md: their examples, applied to a copy of the project, pass its checks
and work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
COPIED = (
    "runner",
    "runner_base",
    "runner_compare",
    "runner_engine",
    "conf",
    "hydra_plugins",
    "tools",
    "tests",
    "ARCHITECTURE.md",
    "pyproject.toml",
)
SOURCES = ("runner/", "runner_base/", "runner_compare/", "runner_engine/", "tools/")
MAX_SOURCES = 4
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE = re.compile(
    r"(?:New file `([^`]+)`|`([^`]+)`, (?:(after|before|instead of) `([^\n]+)`|at the end)):\n\n$"
)

pytestmark = pytest.mark.slow
Run = Callable[..., str]
Job = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Edit:
    """One code block of a recipe, and where it goes."""

    file: str
    how: str  # after, before or instead of a line; empty: at the end of the file
    line: str  # that line, or its beginning
    text: str

    def apply(self, tree: Path) -> None:
        """Change the file, or create it."""
        path = tree / self.file
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        begin = self._place([line.strip() for line in lines]) if self.how else len(lines)
        lines[begin : begin + (self.how == "instead of")] = [self.text]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))

    def _place(self, lines: list[str]) -> int:
        whole = [number for number, line in enumerate(lines) if line == self.line]
        at = whole or [number for number, line in enumerate(lines) if line.startswith(self.line)]
        assert len(at) == 1, f"{self.file} has {len(at)} lines that begin with {self.line!r}"
        return at[0] + (self.how == "after")


def recipes() -> dict[str, list[Edit]]:
    """Return the edits of each recipe, by what it adds."""
    by_title: dict[str, list[Edit]] = {}
    for section in PAGE.read_text().split("\n## Adding ")[1:]:
        title, text = section.split("\n## ")[0].split("\n", 1)
        by_title[title] = []
        for block in BLOCK.finditer(text):
            place = PLACE.search(text[: block.start()])
            assert place is not None, f"{title}: nothing says where this goes:\n{block[1]}"
            new, old, how, line = place.groups()
            assert (ROOT / (new or old)).exists() == (new is None), f"{title}: {new or old}"
            by_title[title].append(Edit(new or old, how or "", line or "", block[1]))
    return by_title


RECIPES = recipes()


def test_each_recipe_has_an_example_in_few_sources() -> None:
    assert len(RECIPES) == 12
    for title, edits in RECIPES.items():
        sources = {edit.file for edit in edits if edit.file.startswith(SOURCES)}
        assert edits, title
        assert len(sources) <= MAX_SOURCES, f"{title}: {sources}"


@pytest.fixture(scope="module")
def tree(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Return a copy of the project with all examples in it; its kernels and bytecode are built
    once, too."""
    return made_once("project_with_examples", copy_with_examples)


def copy_with_examples(folder: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder)
    for edits in RECIPES.values():
        for edit in edits:
            edit.apply(folder)
    # for the empty lines between blocks
    output_of([sys.executable, "-m", "ruff", "format", *SOURCES], folder)


def output_of(command: list[str], cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture
def run(tree: Path, tmp_path: Path) -> Run:
    """Return a function that runs `python ARGUMENTS` in an empty folder, with the copy as the
    project."""

    def start(*arguments: str, **variables: str) -> str:
        installed = os.environ.get("PYTHONPATH", "")  # packages that are installed elsewhere
        own = {"PYTHONPATH": f"{tree}{os.pathsep}{installed}", "XDG_CACHE_HOME": str(tree / "cache")}
        own["RUNNER_CFLAGS"] = "-O0"  # the kernels build faster, with the same answers
        return output_of([sys.executable, "-P", *arguments], tmp_path, **own, **variables)

    return start


@pytest.fixture
def job(run: Run, tmp_path: Path) -> Job:
    """Return a function that runs a job with the copy, and returns the result that it records."""

    def start(*arguments: str, **variables: str) -> dict[str, Any]:
        run("-m", "runner", *arguments, "tracking=none", **variables)
        (record,) = (tmp_path / "outputs" / "jobs").glob("*/result.json")
        result: dict[str, Any] = json.loads(record.read_text())["result"]
        return result

    return start


@pytest.mark.thorough
def test_types_and_style(tree: Path) -> None:
    output_of([sys.executable, "-m", "ruff", "check", *SOURCES], tree)
    if (ROOT / ".mypy_cache").is_dir():  # without it the libraries are read, too, which takes minutes
        shutil.copytree(ROOT / ".mypy_cache", tree / ".mypy_cache")
    output_of([sys.executable, "-m", "mypy", "runner", "tools/families.py"], tree)


@pytest.mark.thorough
def test_the_rules_of_the_source_tree(tree: Path) -> None:
    tests = ("tests/test_house.py", "tests/config/test_sampling.py")
    without_processes = "not import_nothing_heavy and not engine_needs"
    output_of(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", without_processes, *tests],
        tree,
    )
    registry = ["tests/config/test_quantization.py", "tests/engine/quantization/test_registry.py"]
    registry += ["-k", "every_choice and not loaded"]
    assert "passed" in output_of(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *registry], tree
    )


@pytest.mark.thorough
def test_a_model(run: Run) -> None:
    assert "name: HuggingFaceTB/SmolLM2-360M-Instruct" in run(
        "-m", "runner", "model=smollm2_360m", "--cfg", "job"
    )
    # is here
    shown = run("-m", "runner", "model=smollm2_360m", "model.name=embedded", "task.limit=2", "plan=quick")
    assert "1 job: 1 to do" in shown


@pytest.mark.thorough
def test_a_data_set(run: Run) -> None:
    shown = run("-m", "runner", "model=stub", "task.data=colours", "task.show_prompt=1", "plan=true")
    assert "A. green" in shown


def test_an_extractor(job: Job) -> None:
    metrics = job("model=stub", "task.limit=2", "task.extractor=last_line")["metrics"]
    assert metrics["accuracy"] == metrics["accuracy/last_line"]
    assert metrics["answers_found/last_line"] <= metrics["answers_found/flexible"]


@pytest.mark.thorough
def test_a_quantization(job: Job) -> None:
    if find_spec("torchao") is None:
        pytest.skip("pip install 'runner-llm[torchao]'")
    memory = (
        "task=memory",
        "task.repeats=1",
        "task.batch_size=1",
        "task.prompt_tokens=8",
        "task.new_tokens=4",
    )
    metrics = job("quantization=torchao_groups", *memory)["metrics"]
    assert metrics["quantized_modules"] == 28
    assert metrics["predicted_weight_mib"] == pytest.approx(metrics["weight_mib"], rel=0.01)


DRAWING = """
import json, runner
with runner.load("embedded") as model:
    hot = {"temperature": 8, "top_k": 0, "top_p": 1}
    ways = {"temperature": 0}, hot, hot | {"logit_gap": 0.0001}
    print(json.dumps([model.generate("2+3=?", max_new_tokens=12, **way) for way in ways]))
"""


def test_jobs_without_a_new_sampling_parameter_keep_their_ids(run: Run) -> None:
    plan = ("-m", "runner", "model=stub", "generation=sampling", "plan=true", "tracking=none")
    before = output_of([sys.executable, *plan], ROOT)
    assert re.findall(r"gsm8k-\w+", before) == re.findall(r"gsm8k-\w+", run(*plan)) != []
    assert re.findall(r"gsm8k-\w+", run(*plan, "generation.logit_gap=1")) != re.findall(r"gsm8k-\w+", before)


@pytest.mark.thorough
def test_a_sampling_parameter(job: Job, run: Run) -> None:
    likeliest, hot, by_c = json.loads(run("-c", DRAWING).splitlines()[-1])
    assert hot != likeliest
    assert by_c == likeliest
    drawn = ("generation.temperature=8", "generation.logit_gap=0.0001", "generation.max_new_tokens=12")
    by_torch = job("task=generate", "task.prompt=2+3=?", *drawn, RUNNER_NATIVE="0")
    assert by_torch["text"] == likeliest


def test_a_task_with_a_metric(run: Run) -> None:
    shown = run("-m", "runner", "model=stub", "task=words", "task.prompt=one two three", "tracking=none")
    # [STUB_GENERATION] and three
    assert re.search(r"^ *words +4 in the answer *$", shown, re.MULTILINE), shown


@pytest.mark.thorough
def test_a_statistic(run: Run, new_database: Callable[[Path], None], tmp_path: Path) -> None:
    new_database(tmp_path / "outputs" / "mlflow.db")
    two = ("model=stub", "task=words", f"task.prompt={'a ' * 50}", "generation.max_new_tokens=6,40")
    run("-m", "runner", "-m", *two, "hydra/launcher=basic")
    shown = run("-m", "runner_compare", "--baseline", "generation.max_new_tokens=6", COLUMNS="200")
    assert re.search(
        r"max_new_tokens=40 vs generation\.max_new_tokens=6 +words +×5\.86 \[2\.68, 12\.8\] .* larger +41/7 ",
        shown,
    ), shown
    assert re.search(r"measure +ratio +Holm +finding +words +p ", shown), shown
    assert "Ratios are of counts" in shown


@pytest.mark.thorough
def test_an_engine(job: Job) -> None:
    result = job(
        "model=backwards", "model.shout=true", "task=generate", "task.prompt=edoc", "task.format=raw"
    )
    assert result["text"] == "CODE"


FAMILY = "from tools import families; print(families.sweep(['gpt_neo'])[0].row)"


@pytest.mark.thorough
def test_a_family(run: Run) -> None:
    assert "| gpt_neo | GPTNeoForCausalLM | static |" in run("-c", FAMILY)


@pytest.mark.thorough
def test_a_folder(run: Run) -> None:
    assert run("-c", "from runner.counting import words; print(words('one two'))") == "2\n"


@pytest.mark.thorough
def test_another_tools_results(run: Run, tmp_path: Path) -> None:
    for name, wrong in (("a", 0), ("b", 9)):
        answers = {f"question {at}": at >= wrong for at in range(20)}
        content = {"quiz_version": 1, "model": name, "time": "2026", "answers": answers}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert "b is worse than the baseline." in run("-m", "runner_compare", "--results", "a.json", "b.json")

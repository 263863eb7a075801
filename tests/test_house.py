"""The floors: a room imports only from floors below it, and cheap modules import nothing heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from runner.config.tasks import TASKS
from runner.quantization import CHOICES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "runner"


def picture() -> list[str]:
    """The folders and files of the picture in ARCHITECTURE.md, from the ground up."""
    text = (ROOT / "ARCHITECTURE.md").read_text().split("<!-- floors -->")[1].split("<!-- /floors -->")[0]
    names = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    return [name.rstrip("/").removesuffix(".py") for name in reversed(names)]


FLOORS = picture()


def test_the_picture_shows_every_folder() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.name not in ("__init__.py", "__pycache__", "py.typed")}
    assert sorted(FLOORS) == sorted(there)


@cache
def modules() -> dict[str, Path]:
    files = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in files.items() if name != "__init__"}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All of a file's syntax tree, parsed once."""
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imports(path: Path) -> set[str]:
    """The runner modules that a file imports, below functions too."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "runner":
            base = (node.module or "").removeprefix("runner").lstrip(".")
            known = modules()
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                found.add(full if full in known else base)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("runner.") for a in node.names if a.name.startswith("runner.")}
    return found - {""}


def test_a_folder_imports_only_from_folders_below() -> None:
    for module, path in modules().items():
        here = module.split(".")[0]
        assert here in FLOORS, f"runner/{here} is not in the picture of ARCHITECTURE.md"
        for target in imports(path):
            there = target.split(".")[0]
            assert FLOORS.index(there) <= FLOORS.index(here), f"runner/{module} imports {target}, from a floor above"


KINDS = (
    "StubConfig",
    "LocalModelConfig",
    "LocalConfig",
    "PartsModelConfig",
    "AdapterConfig",
    "PeftConfig",
    "PthConfig",
)


def test_nobody_asks_which_kind_a_model_a_quantization_or_an_adapter_is() -> None:
    homes = ("config.model", "config.lora", "engines.kinds.", "quantization.")
    described = {*KINDS, *(choice.__name__ for choice in CHOICES.values())}
    found = []
    for module, path in modules().items():
        for node in nodes(path):
            asked: list[ast.AST] = []
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("isinstance", "type")
            ):
                asked = [*node.args[1:]]
            elif isinstance(node, ast.MatchClass):
                asked = [node.cls]
            names = {name.id for part in asked for name in ast.walk(part) if isinstance(name, ast.Name)}
            if names & described and not f"{module}.".startswith(homes):
                found.append((module, names & described))
    assert found == []


def test_nobody_asks_outside_tasks_which_task_it_is() -> None:
    asked = re.compile(r"(isinstance\([^)]*\.task\b|\bmatch [^\n]*\.task\b|\.task\.name ==)")
    found = {name for name, path in modules().items() if asked.search(path.read_text())}
    assert {name for name in found if not name.startswith(("tasks.", "config."))} == set()


LONGEST = 350  # lines of a file, unless ARCHITECTURE.md gives the reason


def test_long_files_have_a_reason() -> None:
    reasons = (ROOT / "ARCHITECTURE.md").read_text().split("## Files above 350 lines")[1].split("\n## ")[0]
    files = [path for folder in ("runner", "bench", "tools", "tests") for path in (ROOT / folder).rglob("*.py")]
    long = {str(path.relative_to(ROOT)) for path in files if len(path.read_text().splitlines()) > LONGEST}
    assert long == {name for name in long if f"`{name}`" in reasons}


SHARED_BY_TASKS = {"base", "completing", "named_job"}  # the contract, and helpers that are no tasks


def test_tasks_never_import_each_other() -> None:
    for name, path in modules().items():
        room, _, rest = name.partition(".")
        if room == "tasks" and rest:
            others = {target.split(".")[1] for target in imports(path) if target.startswith("tasks.")}
            assert others <= SHARED_BY_TASKS | {rest.split(".")[0]}, name


def test_the_folder_of_tasks_is_the_list_of_tasks() -> None:
    there = {path.stem for path in (PACKAGE / "tasks").iterdir() if not path.name.startswith("__")}
    assert there - SHARED_BY_TASKS == set(TASKS)
    for name, config in TASKS.items():
        alone = (PACKAGE / "tasks" / f"{name}.py").is_file()
        assert config.module == f"runner.tasks.{name}" + ("" if alone else ".task")


def test_only_tracking_and_compare_touch_mlflow() -> None:
    users = set()
    for name, path in modules().items():
        for node in nodes(path):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(used.split(".")[0] == "mlflow" for used in names):
                users.add(name)
    assert users <= {"store.tracking", "store.mlflow_store", "compare.runs"}


HEAVY = (
    "torch",
    "transformers",
    "mlflow",
    "scipy",
    "pandas",
    "datasets",
    "bitsandbytes",
    "torchao",
    "gguf",
    "peft",
    "accelerate",
    "matplotlib",
    "fastapi",
    "uvicorn",
    "openai",
)


@pytest.mark.parametrize(
    "code",
    [
        "sys.argv = ['runner', '--help']; from runner.__main__ import entry; entry()",
        "sys.argv = ['runner', '--cfg', 'job']; from runner.__main__ import entry; entry()",
        "sys.argv = ['runner', '-sc', 'query=bash']; os.environ['COMP_LINE'] = 'runner quant';"
        "os.environ['COMP_POINT'] = '12'; from runner.__main__ import entry; entry()",
        "sys.argv = ['runner-advise', 'model=qwen25_7b_instruct', '--machine', 'laptop_8gb'];"
        "from runner.advise import entry; entry()",
        "sys.argv = ['runner-compare', '--help']; from runner.compare import entry; entry()",
        "import runner.run, runner.tasks.gsm8k.task, runner.tasks.agents.task, runner.tasks.sweep, runner.tasks.memory.task, runner.engines.kinds.parts, runner.tasks.split, runner.tasks.merge, runner.tasks.verify, runner.tasks.archive, runner.tasks.serve, runner.tasks.likelihood.task",
        "sys.argv = ['runner', 'task=likelihood', 'quantization=nf4', 'task.reference=quantization=none', 'plan=quick'];"
        "from runner.__main__ import entry; entry()",
        "sys.argv = ['runner', 'quantization=nf4', 'task.early_stop_vs=quantization=none', 'plan=quick'];"
        "from runner.__main__ import entry; entry()",
    ],
    ids=["help", "cfg", "completion", "advise", "compare-help", "tasks", "plan", "plan-until"],
)
def test_cheap_things_import_nothing_heavy(code: str, tmp_path: Path) -> None:
    program = f"""
import atexit, os, sys
heavy = {HEAVY!r}
atexit.register(lambda: print("HEAVY", [name for name in heavy if name in sys.modules]))
{code}
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout


def test_engine_needs_neither_hydra_nor_mlflow_nor_bitsandbytes() -> None:
    program = """
import sys
for name in ("hydra", "omegaconf", "mlflow", "bitsandbytes", "peft", "datasets"):
    sys.modules[name] = None  # an import of it fails
import runner.engines.local.engine
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The rules of the source tree: a folder imports only from folders below it, and quick commands
import nothing heavy."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from quick_commands import heavy_imports

import runner.scorers
import runner.tasks
import runner_base
import runner_compare.statistics
import runner_engine
import runner_engine.checkpoints
from runner.config.tasks import TASKS
from runner_base.plugins import find_builtin_options
from runner_compare.features import registry
from runner_engine.quantization import CHOICES
from tools.borders import crossing

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("runner", "runner_engine", "runner_compare", "runner_base")


@cache
def picture(package: str) -> list[str]:
    """Return the folders and files of a package in the picture of ARCHITECTURE.md, the lowest
    first."""
    text = (ROOT / "ARCHITECTURE.md").read_text().split("<!-- floors -->")[1].split("<!-- /floors -->")[0]
    of_package = text.split(f"\n{package}/", 1)[1].split("\n", 1)[1].split("\nrunner", 1)[0]
    names = [line.split()[0] for line in of_package.splitlines() if line.startswith("  ")]
    return [name.rstrip("/").removesuffix(".py") for name in reversed(names)]


@cache
def below(package: str) -> set[str]:
    """Return the packages that a package may import, as its line in the picture says."""
    text = (ROOT / "ARCHITECTURE.md").read_text().split("<!-- floors -->")[1].split("<!-- /floors -->")[0]
    (line,) = re.findall(rf"^{package}/ +\(imports ([^)]*)\)", text, re.M)
    return {package, *re.findall(r"runner_\w+", line)}


# the two that have folders in an order
FLOORS = {package: picture(package) for package in ("runner", "runner_engine")}


def holds(path: Path) -> bool:
    """Whether a path is a file, or a folder with Python files: git leaves folders of caches where
    files have moved."""
    return path.is_file() or any(path.rglob("*.py"))


@pytest.mark.parametrize("package", FLOORS)
def test_the_picture_shows_every_folder(package: str) -> None:
    names = ("__init__.py", "__pycache__", "py.typed", "README.md")
    paths = [path for path in (ROOT / package).iterdir() if path.name not in names]
    present = {path.stem for path in paths if holds(path)}
    assert sorted(FLOORS[package]) == sorted(present)


@cache
def modules() -> dict[str, Path]:
    """Return the files of all packages by the names of their modules."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for name, path in files.items()}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Return all nodes of a file's syntax tree, parsed once."""
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imports(path: Path) -> set[str]:
    """Return the modules of this project that a file imports, also inside functions."""
    imported = set()
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                imported.add(full if full in modules() else f"{node.module}")
        elif isinstance(node, ast.Import):
            imported |= {a.name for a in node.names if a.name.split(".")[0] in PACKAGES}
    return imported


def test_a_package_imports_only_packages_below() -> None:
    for module, path in modules().items():
        package = module.split(".")[0]
        above = {target for target in imports(path) if target.split(".")[0] not in below(package)}
        assert not above, f"{module} imports {above}, from a package not below {package}"


def test_tests_of_the_engine_import_nothing_above_it() -> None:
    paths = [*(ROOT / "tests" / "engine").rglob("*.py")]
    for path in paths:  # followed by the support that they import
        imported = re.findall(r"^ *(?:from|import) (\w+)", path.read_text(), re.M)
        assert "runner" not in imported, f"{path.relative_to(ROOT)} imports runner"
        support = {ROOT / "tests" / "support" / f"{name}.py" for name in imported}
        paths += [file for file in support.difference(paths) if file.is_file()]


@pytest.mark.parametrize("package", FLOORS)
def test_a_folder_imports_only_from_folders_below(package: str) -> None:
    floors = FLOORS[package]
    for module, path in modules().items():
        if not module.startswith(f"{package}."):
            continue
        folder = module.split(".")[1]
        assert folder in floors, f"{package}/{folder} is not in the picture of ARCHITECTURE.md"
        for target in imports(path):
            imported = target.split(".")[1] if target.startswith(f"{package}.") else folder
            is_below = floors.index(imported) <= floors.index(folder)
            assert is_below, f"{module} imports {target}, from a folder above"


def circle() -> list[str]:
    """Return files that import each other in a circle, in that order; an empty list if there are
    none."""
    done: set[str] = set()

    def descend(module: str, above: list[str]) -> list[str]:
        if module in above:
            return [*above[above.index(module) :], module]
        if module in done or module not in modules():
            return []
        below = (
            descend(target, [*above, module]) for target in sorted(imports(modules()[module]) - {module})
        )
        first = next(filter(None, below), [])
        done.add(module)
        return first

    return next(filter(None, (descend(module, []) for module in sorted(modules()))), [])


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions and imports for types only count, too."""
    assert " -> ".join(circle()) == ""


KINDS = (
    "StubConfig",
    "LocalModelConfig",
    "LocalConfig",
    "PartsModelConfig",
    "AdapterConfig",
    "PeftConfig",
    "PthConfig",
)


def test_no_code_depends_on_the_class_of_a_model_a_quantization_or_an_adapter() -> None:
    allowed = (
        "runner.config.model",
        "runner_engine.settings.",
        "runner.options.",
        "runner.engines.kinds.",
        "runner_engine.quantization.",
    )
    described = {*KINDS, *(choice.__name__ for choice in CHOICES.values())}
    violations = []
    for module, path in modules().items():
        for node in nodes(path):
            classes: list[ast.AST] = []
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("isinstance", "type")
            ):
                classes = [*node.args[1:]]
            elif isinstance(node, ast.MatchClass):
                classes = [node.cls]
            names = {name.id for part in classes for name in ast.walk(part) if isinstance(name, ast.Name)}
            if names & described and not f"{module}.".startswith(allowed):
                violations.append((module, names & described))
    assert violations == []


def test_no_code_outside_tasks_depends_on_the_task() -> None:
    kinds = {base.__name__ for kind in TASKS.values() for base in kind.__mro__} - {"object"}
    check_of_task = re.compile(
        rf"(isinstance\([^)]*\b(\.task|{'|'.join(kinds)})\b|\bmatch [^\n]*\.task\b|\.task\.name ==)"
    )
    matching = {name for name, path in modules().items() if check_of_task.search(path.read_text())}
    assert {
        name
        for name in matching
        if not name.startswith(("runner.tasks.", "runner.config.", "runner.options."))
    } == set()


# at most; tools/borders.py lists them
NAMES_OVER_BORDERS = {"runner_engine": 153, "runner_compare": 107}


@pytest.mark.parametrize("package", NAMES_OVER_BORDERS)
def test_few_names_cross_a_border(package: str) -> None:
    names, limit = crossing("runner", package), NAMES_OVER_BORDERS[package]
    assert len(names) <= limit, f"the runner uses {len(names)} names of {package}, and {limit} are the limit"


def test_the_comparison_has_few_modules_at_its_top() -> None:
    assert len([*(ROOT / "runner_compare").glob("*.py")]) <= 10


def test_a_feature_of_the_comparison_is_one_folder_and_one_name_in_the_list() -> None:
    sections = (ROOT / "runner_compare" / "features").glob("*/section.py")
    assert {path.parent.name for path in sections} == {*registry.NAMES}


HANGING = re.compile(r"^\s*[])}]+,?  # ", re.M)


def test_no_comment_hangs_on_a_closing_bracket() -> None:
    """Such a comment is read after what it speaks of."""
    assert {name for name, path in modules().items() if HANGING.search(path.read_text())} == set()


# Literals of six words or more outside render/, by package: text that computing code still words. Lower a number when
# there are fewer, and never raise one. Docstrings, errors, help texts and lines of the log do not count.
SENTENCES = {"runner": 126, "runner_engine": 35, "runner_compare": 25, "runner_base": 7}
SIX_WORDS = re.compile(r"(?:[A-Za-z'-]+[ ,:;]+){5}[A-Za-z'-]+")
OF_LOGS = ("debug", "info", "warning", "error", "exception")
OF_ERRORS = re.compile(
    r"check\w*|config_field|in_range|greater_than|at_least|not_blank|NotInIdentity|ValueConstraint|\w*Error|\w+_error"
)


def is_exempt(node: ast.AST) -> bool:
    """Whether all text below a node is that of an error, a help text, a docstring or the log."""
    match node:
        case ast.Raise() | ast.Expr(ast.Constant()) | ast.keyword(arg="help"):
            return True
        case ast.Assign(targets=[ast.Name("need" | "why" | "fix")]):
            return True
        case ast.Call(ast.Attribute(ast.Name("log" | "logger"), attr=name)) if name in OF_LOGS:
            return True
        case ast.Call(ast.Name(name) | ast.Attribute(attr=name)):
            return OF_ERRORS.fullmatch(name) is not None
    return False


def sentences(node: ast.AST) -> int:
    """Count the literals with six words in a row that computing code words."""
    if is_exempt(node):
        return 0
    if isinstance(node, ast.Constant):
        return int(isinstance(node.value, str) and SIX_WORDS.search(node.value) is not None)
    return sum(map(sentences, ast.iter_child_nodes(node)))


def test_text_for_the_log_does_not_count() -> None:
    text = "the kernels were built in so many seconds"
    assert sentences(ast.parse(f"log.warning('{text}: %s', 2)\nlogger.exception('{text}')")) == 0
    assert sentences(ast.parse(f"log.note('{text}')\nnotes.info('{text}')\nself.error('{text}')")) == 3


def is_render(path: Path) -> bool:
    """Whether a file turns values into text: it is in a folder `render/`, or an option's or a feature's `render.py`."""
    return "render" in path.relative_to(ROOT).with_suffix("").parts


@pytest.mark.parametrize("package", SENTENCES)
def test_computing_code_words_ever_less(package: str) -> None:
    paths = [path for path in (ROOT / package).rglob("*.py") if not is_render(path)]
    assert sum(sentences(ast.parse(path.read_text())) for path in paths) <= SENTENCES[package]


DOORS = (
    (runner_base, ("runner_engine", "runner_compare", "runner")),
    (runner_engine, ("runner",)),
    (runner_engine.checkpoints, ("runner",)),
    (runner_compare, ("runner",)),
    (runner_compare.statistics, ("runner",)),
)


def test_what_has_a_door_is_not_fetched_by_the_window() -> None:
    for package, users in DOORS:
        windows = {f"{package.__name__}.{place}.{name}" for name, place in package.PLACES.items()}
        for user in users:
            assert sorted(windows & set(crossing(user, package.__name__.split(".")[0]))) == []


def module_of(door: Any, place: str) -> str:
    """Return the module in which a door's name is: one of its own folder, or any of the runner."""
    return place if place.startswith("runner.") else f"{door.__name__}.{place}"


@pytest.mark.parametrize("door", [*[package for package, _ in DOORS], runner.scorers, runner.tasks])
def test_each_name_of_a_door_says_what_it_is(door: Any) -> None:
    lines = Path(door.__file__).read_text().splitlines()
    for name, place in door.PLACES.items():
        (line,) = [line for line in lines if line.startswith(f'    "{name}": "{place}",')]
        assert "  # " in line
        assert getattr(door, name) is getattr(import_module(module_of(door, place)), name)


def test_a_task_takes_what_it_needs_from_the_door() -> None:
    """Those of its folder, and what a door has not, it imports itself."""
    windows = {f"{module_of(runner.tasks, place)}.{name}" for name, place in runner.tasks.PLACES.items()}
    for option in TASKS.values():
        module = option.module
        if module.startswith("runner.tasks."):
            task = module.split(".")[2]
            for name in (name for name in modules() if name.startswith(f"runner.tasks.{task}.")):
                assert not windows & names_imported(name), name


def names_imported(module: str) -> set[str]:
    """Return the full names that a module imports from others."""
    found = [node for node in nodes(modules()[module]) if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}.{alias.name}" for node in found for alias in node.names}


LONGEST = 445  # lines of a file, unless ARCHITECTURE.md gives the reason


def test_long_files_have_a_reason() -> None:
    reasons = (ROOT / "ARCHITECTURE.md").read_text().split("## Long files")[1].split("\n## ")[0]
    files = [
        path for folder in (*PACKAGES, "bench", "tools", "tests") for path in (ROOT / folder).rglob("*.py")
    ]
    long = {str(path.relative_to(ROOT)) for path in files if len(path.read_text().splitlines()) > LONGEST}
    assert long == {name for name in long if f"`{name}`" in reasons}


# the contract, and helpers that are no tasks
SHARED_BY_TASKS = {"answer_collection", "base", "chat_prompts", "collecting", "context_length", "early_stop"}
SHARED_BY_TASKS |= {"named_adapters", "named_job", "recorded_answers", "rendered_prompts"}


def test_tasks_never_import_each_other() -> None:
    for name, path in modules().items():
        folder, _, rest = name.removeprefix("runner.").partition(".")
        if folder == "tasks" and rest:
            others = {target.split(".")[2] for target in imports(path) if target.startswith("runner.tasks.")}
            assert others <= SHARED_BY_TASKS | {rest.split(".")[0]}, name


def test_the_folder_of_tasks_is_the_list_of_tasks() -> None:
    names = {
        path.stem
        for path in (ROOT / "runner/tasks").iterdir()
        if not path.name.startswith("__") and holds(path)
    }
    in_options = {name for name, config in TASKS.items() if config.module.startswith("runner.options.")}
    assert names - SHARED_BY_TASKS == set(TASKS) - in_options
    assert in_options <= set(find_builtin_options("task"))
    for name, config in TASKS.items():
        if name not in in_options:
            is_file = (ROOT / "runner/tasks" / f"{name}.py").is_file()
            assert config.module == f"runner.tasks.{name}" + ("" if is_file else ".task")


def test_nothing_imports_an_option() -> None:
    for module, path in modules().items():
        option = module.split(".")[2] if module.startswith("runner.options.") else ""
        imported = {target for target in imports(path) if target.startswith("runner.options.")}
        assert {target.split(".")[2] for target in imported} <= {option}, f"{module} imports {imported}"


def test_only_tracking_touches_mlflow() -> None:
    users = set()
    for name, path in modules().items():
        for node in nodes(path):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(imported.split(".")[0] == "mlflow" for imported in names):
                users.add(name)
    assert users == {
        f"runner.tracking.{it}"
        for it in ("job_runs", "connection", "logged_models", "traces", "resumed_runs")
    }


@pytest.mark.parametrize(
    "code",
    [
        "sys.argv = ['runner', '--help']; from runner.__main__ import entry; entry()",
        "sys.argv = ['runner', '--cfg', 'job']; from runner.__main__ import entry; entry()",
        "sys.argv = ['runner', '-sc', 'query=bash']; os.environ['COMP_LINE'] = 'runner quant';"
        "os.environ['COMP_POINT'] = '12'; from runner.__main__ import entry; entry()",
        "sys.argv = ['runner-compare', '--help']; from runner_compare import entry; entry()",
        f"import runner.run, {', '.join(sorted(kind.module for kind in TASKS.values()))}",
        "sys.argv = ['runner', 'task=likelihood', 'quantization=nf4', 'task.reference=quantization=none', 'plan=quick'];"
        "from runner.__main__ import entry; entry()",
        "sys.argv = ['runner', '-m', 'quantization=nf4', 'task.early_stop_vs=quantization=none', 'plan=quick'];"
        "from runner.__main__ import entry; entry()",
    ],
    ids=["help", "cfg", "completion", "compare-help", "tasks", "plan", "plan-early-stop"],
)
def test_quick_commands_import_nothing_heavy(code: str, tmp_path: Path) -> None:
    assert heavy_imports(code, tmp_path) == []


def test_a_set_names_no_test() -> None:
    """Its text depends on how it was made, so that two workers may name a test differently, and
    neither would run."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text()
        if not re.search(r"\bids=(str|repr)\b", text):  # most files, which need not be parsed
            continue
        for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
            named_by_text = any(
                key.arg == "ids" and ast.unparse(key.value) in ("str", "repr") for key in call.keywords
            )
            if named_by_text:
                assert not [node for node in ast.walk(call) if isinstance(node, ast.Set)], (
                    f"{path}:{call.lineno}"
                )


def formatless(source: str) -> list[int]:
    """Return the lines that make a tensor without saying its format."""
    makers = "empty|zeros|ones|full|rand|randn|linspace"
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and re.fullmatch(rf"torch\.({makers})", ast.unparse(node.func))
        and not any(key.arg == "dtype" for key in node.keywords)
    ]


def test_a_new_tensor_of_the_engine_has_a_format() -> None:
    """While transformers loads a model, torch's default format is another one, in all threads."""
    assert formatless("x = torch.ones(2)\ny = torch.ones(2, dtype=torch.int32)") == [1]
    for name, path in modules().items():
        if name.startswith("runner_engine"):
            assert formatless(path.read_text()) == [], name

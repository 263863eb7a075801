"""The wheel of the comparison alone: it holds what it needs, requires nothing else, and says what
the checkout says."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from runner_base.errors import OPTIONAL_PACKAGES, get_error_message_for_user
from runner_compare.render.margins import UNDECIDED

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "wheels" / "compare"
PACKAGES = ("runner_base", "runner_compare")
# packages whose name is not the module's
DISTRIBUTIONS = {"dotenv": "python-dotenv", "yaml": "pyyaml"}
LOGS = (
    ("inspect_ai/none", "inspect_ai/nf4"),
    ("lighteval/whole", "lighteval/cut_off"),
    ("lm_eval/hf", "lm_eval/runner"),
    ("evalscope/none", "evalscope/nf4"),
    ("olmo_eval/none", "olmo_eval/nf4"),
    ("evalplus/none_eval_results.json", "evalplus/nf4_eval_results.json"),
    ("llama_eval/none.json", "llama_eval/nf4.json"),
    ("nemo_evaluator/none", "nemo_evaluator/nf4"),
    ("evalution/none.json", "evalution/nf4.json"),
    ("perf_eval/embedded-cpu",),
    ("llama_bench/bench.json",),
    ("vllm/at_once", "vllm/one_at_a_time"),
    ("guidellm/guidellm_1.json", "guidellm/guidellm_2.json"),
    ("aiperf/1", "aiperf/2"),
)
ABSENT = ("torch", "transformers", "hydra", "omegaconf", "mlflow", "bitsandbytes", "runner", "runner_engine")


def project(folder: Path) -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return found


def test_it_has_the_version_of_the_whole() -> None:
    assert project(HOME)["version"] == project(ROOT)["version"]


def test_all_that_it_imports_is_a_dependency_and_no_more() -> None:
    described = project(HOME)
    lines, extras = described["dependencies"], described["optional-dependencies"]
    assert isinstance(lines, list)
    assert isinstance(extras, dict)
    added = {
        extra: [re.split(r"[\[<>=~ ]", line)[0] for line in extras[extra]]
        for extra in extras
        if extra != "all"
    }
    assert {name: extra for extra, (name,) in added.items()} == OPTIONAL_PACKAGES
    lines = [*lines, *OPTIONAL_PACKAGES]
    required = {re.split(r"[\[<>=~ ]", line)[0] for line in lines}
    imported = set()
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {name.split(".")[0] for name in names}
    others = imported - set(sys.stdlib_module_names) - {*PACKAGES}
    assert {DISTRIBUTIONS.get(name, name) for name in others} == required


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it() -> None:
    for name, extra in OPTIONAL_PACKAGES.items():
        message = get_error_message_for_user(ModuleNotFoundError(f"No module named '{name}'", name=name))
        assert message is not None
        assert f"runner-compare[{extra}]" in message
    assert get_error_message_for_user(ModuleNotFoundError("No module named 'other'", name="other")) is None


@pytest.mark.parametrize("module", sorted(OPTIONAL_PACKAGES))
def test_without_a_request_no_optional_package_is_imported(module: str) -> None:
    logs = [str(ROOT / "tests/data/llama_eval" / f"{name}.json") for name in ("none", "nf4")]
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"from runner_compare import main; sys.exit(main(['--results', *{logs!r}, '--explain', '--plot']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def _nothing_hides_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of a folder on the path would be imported in place of those that are installed."""
    monkeypatch.delenv("PYTHONPATH", raising=False)


def test_the_examples_of_its_page_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", (HOME / "README.md").read_text(), re.M | re.S)
    for name, logs in (("base", "none"), ("quantized", "nf4")):
        shutil.copytree(ROOT / "tests/data/inspect_ai" / logs, tmp_path / "logs" / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)
    compared = names["compared"]
    assert compared.passed is False
    assert [one.met for one in compared.requirements] == [False, False]
    assert f"{UNDECIDED} within 2 points" in compared.requirements[0].reason
    assert len(compared.to_df()) == 4


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(HOME)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("runner_compare-*-py3-none-any.whl")
    return built


@pytest.mark.thorough
@pytest.mark.slow
def test_it_holds_the_comparison_and_the_floor_below(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    expected = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert expected <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {*PACKAGES}
    assert wheel.stat().st_size < 2**20


@pytest.mark.thorough
def test_in_an_empty_environment_it_says_what_the_checkout_says(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    commands = tmp_path / "env" / "bin"
    install = [
        str(commands / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        f"{wheel}[all]",
    ]
    subprocess.run(install, check=True)
    look = f"import importlib.util as u; print([name for name in {ABSENT!r} if u.find_spec(name)])"
    found = subprocess.run(
        [commands / "python", "-c", look], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"
    entry = "import sys; from runner_compare import entry; sys.argv[0] = 'runner-compare'; entry()"
    for places in LOGS:
        arguments = ["--results", *(str(ROOT / "tests/data" / place) for place in places), "--format", "json"]
        alone, here = (
            subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, check=False)
            for command, folder in (
                ([commands / "runner-compare"], tmp_path),
                ([sys.executable, "-c", entry], ROOT),
            )
        )
        assert alone.returncode == 0, alone.stderr
        assert (alone.stdout, alone.stderr) == (here.stdout, here.stderr)
    jobs = subprocess.run(
        [commands / "runner-compare"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert jobs.returncode == 2
    assert jobs.stderr.count("\n") == 1
    assert "pip install runner-llm" in jobs.stderr

"""The wheel, installed in another environment: it contains config, weights and commands."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import processors
import pytest

from runner_base import processor

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("runner", "runner_engine", "runner_compare", "runner_base")
TEXTS = {".md", ".py", ".yaml", ".toml"}


@pytest.fixture(autouse=True)
def _nothing_hides_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of a folder on the path would be imported in place of those that are installed."""
    monkeypatch.delenv("PYTHONPATH", raising=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_config_and_weights(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = {f"runner/conf/{file.relative_to(ROOT / 'conf')}" for file in (ROOT / "conf").rglob("*.yaml")}
    assert conf <= names
    assert "runner_engine/embedded/model/model.safetensors" in names
    assert "runner_engine/embedded/lora_peft/adapter_model.safetensors" in names
    assert {
        "runner/py.typed",
        "runner_compare/comparison.schema.json",
        "runner_compare/render/page.css",
    } <= names
    beside_modules = [
        file for file in (ROOT / "runner" / "options").rglob("*.*") if file.suffix in (".yaml", ".html")
    ]
    assert {str(file.relative_to(ROOT)) for file in beside_modules} <= names
    assert not [name for name in names if name.startswith(("tests/", "outputs/"))]
    assert wheel.stat().st_size < 10.5 * 2**20


@pytest.mark.slow
def test_the_wheel_is_called_by_a_name_that_nobody_else_has(wheel: Path) -> None:
    """`runner` on the package index is a stranger's of 2013, with a newer version than ours."""
    assert wheel.name.startswith("runner_llm-")


def test_what_is_said_to_install_is_ours() -> None:
    named = re.compile(r"(pip install (?:-\S+ )*['\"]?|dependencies = \[\s*\")runner(?![\w-])")
    folders = (*PACKAGES, "conf", "docs", "experiments", "tests", "tools")
    files = [*ROOT.glob("*.*"), *(file for folder in folders for file in (ROOT / folder).rglob("*.*"))]
    texts = {
        file.name: file.read_text(errors="replace")
        for file in files
        if file.suffix in TEXTS and file.is_file()
    }
    assert len(texts) > 800
    assert [file for file, text in texts.items() if named.search(text)] == []
    assert any("pip install 'runner-llm[" in text for text in texts.values())


def installed(wheel: Path, home: Path) -> Path:
    """Install the wheel into a new environment, with the packages of this one; return its folder of
    commands."""
    venv.create(home, with_pip=False)
    site = next((home / "lib").glob("python*/site-packages"))
    # this environment's packages are visible, but not its editable runner, because .pth files do
    # not nest; they may lie in several folders (make test-next)
    packages = dict.fromkeys(
        [sysconfig.get_paths()["purelib"], *(path for path in sys.path if "-packages" in path)]
    )
    (site / "borrowed.pth").write_text("".join(f"{path}\n" for path in packages))
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(home / "bin" / "python"),
        "install",
        "--no-deps",
        "-q",
    ]
    subprocess.run([*install, "--no-index", str(wheel)], check=True, capture_output=True)
    return home / "bin"


@pytest.fixture(scope="module")
def wheel_with_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the kernels of one variant, compiled quickly."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "tools.wheel", "--variants", "avx2", "--out", str(folder)]
    environment = os.environ | {"RUNNER_CFLAGS": "-O1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("runner_llm-*.whl")
    return built


@pytest.mark.thorough
@processors.needs("avx2")
@pytest.mark.skipif(processor.find_c_compiler() is None, reason="there is no C compiler here")
def test_a_wheel_with_kernels_needs_no_compiler(wheel_with_kernels: Path, tmp_path: Path) -> None:
    assert wheel_with_kernels.name.endswith("-py3-none-linux_x86_64.whl")
    bill = json.loads(next(wheel_with_kernels.parent.glob("runner_llm-*.cdx.json")).read_text())
    assert wheel_with_kernels.name in {file["name"] for file in bill["metadata"]["component"]["components"]}
    names = zipfile.ZipFile(wheel_with_kernels).namelist()
    (library,) = (name for name in names if name.endswith(".so"))
    assert re.fullmatch(r"runner_engine/kernels/prebuilt/kernels-[0-9a-f]{16}\.avx2\.so", library)
    commands = installed(wheel_with_kernels, tmp_path / "env")
    environment = {name: value for name, value in os.environ.items() if name not in ("CC", "RUNNER_CFLAGS")}
    environment |= {
        "PATH": str(commands),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "RUNNER_WITHOUT": "avx512",
    }

    def facts(**more: str) -> dict[str, str]:
        command = [str(commands / "runner"), "task.limit=2", "print=json", "tracking=none", "rerun=true"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment | more, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        record = json.loads((Path(json.loads(done.stdout)["output_dir"]) / "result.json").read_text())
        found: dict[str, str] = record["result"]["facts"]
        return found

    assert facts()["products"].startswith("panels, by AVX2")
    assert not list((tmp_path / "cache").rglob("*.so")), "nothing was built"
    assert "panels" not in facts(RUNNER_NATIVE="0").get("products", "")
    assert "panels" not in facts(RUNNER_WITHOUT="avx2").get("products", ""), (
        "no variant fits, and there is no compiler"
    )


@pytest.mark.slow
def test_installed_wheel_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "env"
    installed(wheel, home)
    where = subprocess.run(
        [str(home / "bin" / "python"), "-c", "import runner; print(runner.__path__[0])"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(home))
    command = [str(home / "bin" / "runner"), "task.limit=2", "print=json", "tracking=none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["n"] == 2
    assert (tmp_path / "outputs" / "jobs").is_dir()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for script in {"runner", "runner-compare", "runner-advise"} & {*project["scripts"]}:
        subprocess.run([home / "bin" / script, "--help"], cwd=tmp_path, check=True, capture_output=True)
    code = "from importlib.metadata import entry_points; print([*entry_points(group='lm_eval.models').names])"
    names = subprocess.run(
        [home / "bin" / "python", "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert names.stdout.strip() == str([*project["entry-points"].get("lm_eval.models", {})])


# packages whose name is not the module's
DISTRIBUTIONS = {"hydra": "hydra-core", "dotenv": "python-dotenv"}
# dependencies of transformers, torch, MLflow, FastAPI, uvicorn, OmegaConf
INDIRECT = {"h11", "huggingface_hub", "jinja2", "pydantic", "sqlalchemy", "starlette", "tqdm", "yaml"}
# each in its own extra, sympy with Math-Verify
OPTIONAL = {"torchao", "gguf", "joblib", "llguidance", "lm_eval", "optuna", "ray", "submitit"} | {
    # in environments of their own
    "xllamacpp",
    "llmcompressor",
    "compressed_tensors",
    "auto_round",
    "langdetect",
    "math_verify",
    "latex2sympy2_extended",
    "sympy",
    "trackio",
    "wandb",
}


@pytest.mark.slow
def test_all_that_the_core_imports_is_a_core_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {re.split(r"[\[<>=~ ]", line)[0] for line in project["dependencies"]}
    imported = set()
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {name.split(".")[0] for name in names}
    third_party = imported - set(sys.stdlib_module_names) - {*PACKAGES, "hydra_plugins"} - INDIRECT - OPTIONAL
    assert "datasets" in third_party
    missing = {name for name in third_party if DISTRIBUTIONS.get(name, name.replace("_", "-")) not in core}
    assert not missing

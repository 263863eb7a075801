"""What must be read for a usual change? `python -m tools.reading [--at COMMIT]`.

For each change of CHANGES: its start files, which are edited or copied from, and the modules of this project that these
import directly: their number, and the lines of code in them. Imports inside functions and for types only count, too.
`--at` reads a commit instead of the working tree; the start files of before the packages were parted are in BEFORE.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("runner", "runner_engine", "runner_compare", "runner_base")


@dataclass(frozen=True)
class Change:
    """A usual change, and the files in which it begins."""

    name: str
    wanted_files: int
    wanted_lines: int
    before: tuple[str, ...]  # start files of commits in which runner/ has everything
    today: tuple[str, ...]


DECODE = "engines/local/decode"
KERNEL = (
    "engines/local/kernels/native",
    "engines/local/matmul/quantized_layers",
    "engines/local/matmul/autotune",
)
CHANGES = (
    Change(
        "a verdict",
        6,
        1_000,
        ("scorers/verdicts", "scorers/numbers", "tasks/gsm8k/judging"),
        ("runner/scorers/verdicts", "runner/scorers/numbers", "runner/tasks/gsm8k/judging"),
    ),
    Change(
        "a quantization",
        15,
        2_500,
        ("quantization/bitsandbytes", "quantization/__init__", "quantization/base", "models/load"),
        (
            "runner_engine/quantization/bitsandbytes",
            "runner_engine/quantization/__init__",
            "runner_engine/quantization/base",
            "runner_engine/models/load",
        ),
    ),
    Change(
        "a task",
        10,
        1_500,
        ("config/task", "tasks/completing", "tasks/generate"),
        ("runner/tasks/generate/keys", "runner/tasks/completing", "runner/tasks/generate/task"),
    ),
    Change(
        "a kernel",
        18,
        3_000,
        (*KERNEL, f"{DECODE}/fused_forward"),
        (
            "runner_engine/kernels/native",
            "runner_engine/matmul/quantized_layers",
            "runner_engine/matmul/autotune",
            "runner_engine/decode/fused_forward",
        ),
    ),
    Change(
        "scheduling",
        12,
        2_200,
        (f"{DECODE}/scheduler", f"{DECODE}/entering", f"{DECODE}/room", f"{DECODE}/forward"),
        (
            "runner_engine/decode/scheduler",
            "runner_engine/decode/admission",
            "runner_engine/decode/kv_budget",
            "runner_engine/decode/decoder",
        ),
    ),
    Change(
        "a statistic",
        10,
        1_800,
        ("core/effects", "core/number_effects", "compare/pairing", "compare/findings", "compare/table"),
        (
            "runner_compare/statistics/methods/fisher",
            "runner_compare/render/quantities",
            "runner_compare/ways/repeats",
            "runner_compare/ways/__init__",
        ),
    ),
    Change(
        "a reader of a tool",
        5,
        800,
        ("compare/other_tools/load", "compare/other_tools/llama_eval"),
        ("runner_compare/readers/tools", "runner_compare/readers/llama_eval"),
    ),
    Change(
        "a server limit",
        8,
        1_200,
        ("config/task", "serving/gateway", "serving/guard", "serving/described"),
        ("runner/options/serve/keys", "runner/options/serve/limits"),
    ),
)


def files_of_tree() -> Mapping[str, str]:
    """Return the text of each Python file of the packages in the working tree, by its path."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found[path.relative_to(ROOT).as_posix()] = path.read_text()
    return found


def files_of_commit(commit: str) -> Mapping[str, str]:
    """Return the text of each Python file of the packages in a commit, by its path."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    listed = git("ls-tree", "-r", "--name-only", commit, *PACKAGES).split("\n")
    return {path: git("show", f"{commit}:{path}") for path in listed if path.endswith(".py")}


def module_of(path: str) -> str:
    """Return the module's name of a file."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imported(text: str, modules: Mapping[str, str]) -> set[str]:
    """Return the paths of the modules that a file imports directly."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {modules[name] for name in names if name in modules}
    return found


def read_for(start: tuple[str, ...], files: Mapping[str, str]) -> tuple[int, int]:
    """Return the number of files and of lines that start files make one read."""
    modules = {module_of(path): path for path in files}
    must = set(start)
    for path in start:
        must |= imported(files[path], modules)
    return len(must), sum(len(files[path].splitlines()) for path in must)


def main() -> int:
    """Print the table."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--at", metavar="COMMIT", help="read this commit instead of the working tree")
    options = arguments.parse_args()
    files = files_of_commit(options.at) if options.at else files_of_tree()
    is_parted = any(path.startswith("runner_engine/") for path in files)
    for change in CHANGES:
        start = tuple(f"{name}.py" for name in change.today)
        if not is_parted:
            start = tuple(f"runner/{name}.py" for name in change.before)
        if missing := [path for path in start if path not in files]:
            print(f"{change.name:20} {missing}")
            continue
        count, lines = read_for(start, files)
        wanted = f"wanted {change.wanted_files:3} files {change.wanted_lines:6,} lines"
        print(f"{change.name:20} {count:3} files {lines:6,} lines   {wanted}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

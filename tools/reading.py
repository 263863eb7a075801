"""What must be read for a usual change, and what do such changes touch? `python -m tools.reading [--at COMMIT]`.

For each change of CHANGES: its start files, what these import, and what that imports in turn: the number of modules of
this project, and their lines. Imports inside functions and for types only count, too. The start files are fixed: one
that moves keeps its line, and none is exchanged for one that imports less. Beside it stands how many files of the
packages the last ten commits changed that changed a start file: the median, and the most. Commits of more than
MASS_COMMIT files are renamings and no such changes.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("runner", "runner_engine", "runner_compare", "runner_base")
DEPTH = 2  # imports of imports
COMMITS, MASS_COMMIT = 10, 100
CHANGES = {
    "a verdict": ("runner/scorers/verdicts", "runner/scorers/numbers", "runner/tasks/gsm8k/judging"),
    "a quantization": (
        "runner_engine/quantization/bitsandbytes",
        "runner_engine/quantization/__init__",
        "runner_engine/quantization/base",
        "runner_engine/models/load",
    ),
    "a task": ("runner/tasks/generate/keys", "runner/tasks/completing", "runner/tasks/generate/task"),
    "a kernel": (
        "runner_engine/kernels/native",
        "runner_engine/matmul/quantized_layers",
        "runner_engine/matmul/autotune",
        "runner_engine/decode/fused_forward",
    ),
    "scheduling": (
        "runner_engine/decode/scheduler",
        "runner_engine/decode/admission",
        "runner_engine/decode/kv_budget",
        "runner_engine/decode/decoder",
    ),
    "a statistic": (
        "runner_compare/statistics/methods/fisher",
        "runner_compare/render/quantities",
        "runner_compare/ways/repeats",
        "runner_compare/ways/__init__",
    ),
    "a reader of a tool": ("runner_compare/readers/tools", "runner_compare/readers/llama_eval"),
    "a server limit": ("runner/options/serve/keys", "runner/options/serve/limits"),
}


def git(*words: str) -> str:
    """Return what a git command prints."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def files_of_tree() -> Mapping[str, str]:
    """Return the text of each Python file of the packages in the working tree, by its path."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def files_of_commit(commit: str) -> Mapping[str, str]:
    """Return the text of each Python file of the packages in a commit, by its path."""
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


def read_for(start: tuple[str, ...], files: Mapping[str, str], depth: int = DEPTH) -> tuple[int, int]:
    """Return the number of files and of lines that start files make one read."""
    modules = {module_of(path): path for path in files}
    must, new = set(start), set(start)
    for _ in range(depth):
        new = {path for known in new for path in imported(files[known], modules)} - must
        must |= new
    return len(must), sum(len(files[path].splitlines()) for path in must)


def touched_by(start: tuple[str, ...], commit: str) -> list[int]:
    """Return how many files of the packages the last commits changed that changed a start file."""
    counts: list[int] = []
    log = git(
        "log", "--no-merges", "-200", "--name-only", "--format=%x00", "--full-diff", commit, "--", *start
    )
    for names in log.split("\0"):
        paths = [name for name in names.split() if name.split("/")[0] in PACKAGES and name.endswith(".py")]
        if 0 < len(paths) <= MASS_COMMIT and len(counts) < COMMITS:
            counts.append(len(paths))
    return counts


def main() -> int:
    """Print the table."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--at", metavar="COMMIT", help="read this commit instead of the working tree")
    options = arguments.parse_args()
    files = files_of_commit(options.at) if options.at else files_of_tree()
    print(f"{'a change of':20} reads {'files':>9} {'lines':>8}   commits touch (median, most)")
    for name, modules in CHANGES.items():
        start = tuple(f"{module}.py" for module in modules)
        if missing := [path for path in start if path not in files]:
            print(f"{name:20} not there: {', '.join(missing)}")
            continue
        count, lines = read_for(start, files)
        touched = touched_by(start, options.at or "HEAD")
        print(f"{name:20} {count:15,} {lines:8,}   {statistics.median(touched):>5.0f} {max(touched):>5}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

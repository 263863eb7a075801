"""Do other tools compute the same p-values? `python bench/compare/peers.py ENVIRONMENTS [--only errorbars,nel]`.

Each tool computes its p-value of the same paired answers: three tables of 500 questions that were measured, and
five that were drawn. ENVIRONMENTS is a folder with a virtual environment per tool. A missing environment is
created there, from the package index. A tool that cannot be installed is skipped, and the reason is printed.

The exit code is 1 if a tool that reports the exact two-sided McNemar test differs by more than 1e-9 from
runner-compare. Other tests are printed, and do not count.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from simulation import Drawn, Solved

from runner_compare.ways.verdicts import compare_pair

TOLERANCE = 1e-9
EXACT = "exact McNemar, two-sided"
MEASURED = {
    "nf4": (6, 13),
    "fp4": (4, 39),
    "int8": (1, 3),
}  # questions that only the run, the baseline solved
NUM_QUESTIONS, NUM_SOLVED_BY_BOTH = 500, 300

# Each program reads {table: [baseline, run]} from stdin, and writes {test: {table: p}}.
READ = "import json, sys\ntables = json.load(sys.stdin)\nfound = {}\n"
ADD = "\ndef add(test, table, p):\n    found.setdefault(test, {})[table] = float(p)\n"
WRITE = "\njson.dump(found, sys.stdout)\n"
ERRORBARS = """
from errorbars.compare import paired_compare
for table, (base, run) in tables.items():
    compared = paired_compare(run, base)
    add("EXACT", table, compared.mcnemar.p_value)
    add("paired t test", table, compared.p_value)
"""
PAIRED_EVAL = """
from paired_eval import mcnemar_exact, paired_compare
for table, (base, run) in tables.items():
    wins = sum(a > b for a, b in zip(run, base))
    losses = sum(a < b for a, b in zip(run, base))
    add("EXACT", table, mcnemar_exact(wins, losses))
    add("10,000 permutations, smallest p 1e-4", table, paired_compare(run, base)["p_value"])
"""
EVALSIG = """
from evalsig.compare.compare import compare
from evalsig.types import ItemResult, RunFrame
def frame(scores):
    return RunFrame("run", "model", "task", "correct", [ItemResult(str(i), s) for i, s in enumerate(scores)])
for table, (base, run) in tables.items():
    compared = compare(frame(base), frame(run))
    approximate = "McNemar, chi-square above 25 pairs that differ"
    add("EXACT" if compared.method == "mcnemar_exact" else approximate, table, compared.p_value)
    add("gate: one-sided, whether the run is better", table, compare(frame(base), frame(run), one_sided=True).p_value)
"""
# compare_evaluations calls this function with the pairs of two runs' traces
MLFLOW = """
import numpy as np
from mlflow.genai.evaluation.comparison.paired_comparison import _compare_paired_values
for table, (base, run) in tables.items():
    compared = _compare_paired_values("correct", np.array(base, float), np.array(run, float), value_type="binary")
    approximate = "McNemar, chi-square from 25 pairs that differ"
    add("EXACT" if compared.method == "mcnemar_exact" else approximate, table, compared.p_value)
"""
NEL = """
import subprocess, tempfile
from pathlib import Path
from nemo_evaluator.engine.artifacts import build_artifact_bundle, write_all
def write(folder, scores):
    results = [{"problem_idx": i, "repeat": 0, "reward": float(s)} for i, s in enumerate(scores)]
    bundle = build_artifact_bundle("questions", results, {}, {"benchmark": "questions"})
    write_all(bundle | {"_results": results}, folder)
for table, (base, run) in tables.items():
    with tempfile.TemporaryDirectory() as folder:
        for name, scores in (("base", base), ("run", run)):
            write(Path(folder, name), scores)
        compare = [Path(sys.executable).with_name("nel"), "compare", "base", "run", "--format", "json"]
        done = subprocess.run([*compare, "--no-report", "--no-strict"], cwd=folder, capture_output=True, text=True)
        report = json.JSONDecoder().raw_decode(done.stdout[done.stdout.index("{"):])[0]
        add("exact McNemar, one-sided, six decimals", table, report["mcnemar"]["p_value"])
"""


@dataclass(frozen=True)
class Tool:
    package: str
    version: str
    program: str
    installs: tuple[tuple[str, ...], ...]  # arguments of pip install, one after another
    python: str = "python3.11"


def create_tool(package: str, version: str, program: str, *more: str, python: str = "python3.11") -> Tool:
    return Tool(package, version, program, ((f"{package}=={version}", *more),), python)


TOOLS = {
    "errorbars": create_tool("errorbars", "0.2.4", ERRORBARS),
    "paired-eval": create_tool("paired-eval", "0.4.0", PAIRED_EVAL),
    "evalsig": create_tool("evalsig", "0.1.2", EVALSIG),
    # its two parts of 3.18.0 may be missing on an index, and are in the package itself
    "mlflow": Tool("mlflow", "3.18.0", MLFLOW, (("mlflow==3.17.2",), ("--no-deps", "mlflow==3.18.0"))),
    "nel": create_tool("nemo-evaluator", "0.3.0", NEL, "scipy", python="python3.12"),
}


class SkippedError(Exception):
    """A tool cannot be asked here. The message is the reason."""


def draw_tables(generator: np.random.Generator) -> dict[str, tuple[Solved, Solved]]:
    """Return the answers of a baseline and a run for each table: first those that were measured."""
    counts = dict(MEASURED)
    for number in range(1, 6):
        wins, losses = (int(count) for count in generator.integers(0, 30, 2))
        counts[f"drawn {number}"] = wins, losses
    tables = {}
    for name, (wins, losses) in counts.items():
        both = np.arange(NUM_QUESTIONS) < NUM_SOLVED_BY_BOTH
        base, run = both.copy(), both.copy()
        run[NUM_SOLVED_BY_BOTH : NUM_SOLVED_BY_BOTH + wins] = True
        base[NUM_SOLVED_BY_BOTH + wins : NUM_SOLVED_BY_BOTH + wins + losses] = True
        order = generator.permutation(NUM_QUESTIONS)
        tables[f"{name} {wins}/{losses}"] = base[order], run[order]
    return tables


def compute_our_p_value(base: Solved, run: Solved) -> float:
    reader = Drawn(len(base))
    first, second = reader.add("base", base), reader.add("run", run)
    return compare_pair(second, first, reader).compute_worst_case_p_value()


def prepare_environment(folder: Path, tool: Tool) -> Path:
    """Return the Python of a tool's environment, and create the environment if it is missing."""
    python = folder / "bin" / "python"
    if python.is_file():
        return python
    interpreter = shutil.which(tool.python)
    if interpreter is None or subprocess.run([interpreter, "--version"], capture_output=True).returncode:
        raise SkippedError(
            f"{tool.python} is not installed. Create the environment {folder} with another Python"
        )
    commands = [[interpreter, "-m", "venv", str(folder)]]
    commands += [[str(python), "-m", "pip", "install", "-q", *arguments] for arguments in tool.installs]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise SkippedError((done.stderr.strip().splitlines() or ["cannot be installed"])[-1][:200])
    return python


def ask_tool(python: Path, tool: Tool, tables: str) -> tuple[str, dict[str, dict[str, float]]]:
    """Return the installed version of a tool, and its p-values by test and table."""
    version = f"from importlib.metadata import version; print(version({tool.package!r}))"
    installed = subprocess.run([python, "-c", version], capture_output=True, text=True, check=False)
    program = READ + ADD + tool.program.replace("EXACT", EXACT) + WRITE
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [python.absolute(), "-c", program],
            input=tables,
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )
    if done.returncode:
        raise SkippedError((done.stderr.strip().splitlines() or ["no output"])[-1][:200])
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return installed.stdout.strip(), found


def print_row(cells: Sequence[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> int:
    """Print the table. Return 1 if a tool's exact test differs from ours."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environments", type=Path)
    parser.add_argument("--only", default=",".join(TOOLS), help="tools, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(TOOLS):
        parser.error(f"--only {','.join(sorted(unknown))}: unknown tool. Choose from {', '.join(TOOLS)}")
    chosen = {name: TOOLS[name] for name in names}
    tables = draw_tables(np.random.default_rng(options.seed))
    ours = {name: compute_our_p_value(base, run) for name, (base, run) in tables.items()}
    asked = json.dumps({name: [it.astype(int).tolist() for it in pair] for name, pair in tables.items()})
    options.environments.mkdir(parents=True, exist_ok=True)
    print_row(["tool", "test", *tables])
    print_row(["---", "---", *("---:" for _ in tables)])
    print_row(["runner-compare", EXACT, *(f"{p:.3g}" for p in ours.values())])
    differing, compared, skipped = list[str](), 0, list[str]()
    for name, tool in chosen.items():
        try:
            python = prepare_environment(options.environments / name, tool)
            version, found = ask_tool(python, tool, asked)
        except SkippedError as reason:
            skipped.append(f"{name}: {reason}")
            continue
        for test, values in found.items():
            cells = [f"{values[table]:.3g}" if table in values else "" for table in tables]
            print_row([f"{name} {version}", test, *cells])
            if test == EXACT:
                compared += len(values)
                differing += [f"{name}, {it}" for it, p in values.items() if abs(p - ours[it]) > TOLERANCE]
    print(f"\n{compared} p-values of the same test; differ by more than {TOLERANCE:g}: {len(differing)}")
    for line in [*differing, *(f"skipped {it}" for it in skipped)]:
        print(line)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())

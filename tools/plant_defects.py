"""Which planted defects do the tests find? `python -m tools.plant_defects [--lines FOLDER]`.

Each defect changes one place of a copy of the project: a sign, a comparison, a number by one, a condition,
a lock, a call that is left out, an error that is swallowed, a number format. Places are drawn from all
packages and the kernels. Tests run until one fails. With --lines (records of `tools.executed_lines`) these
are the tests that execute the line, the quickest first; without, the tests whose file imports the module.
With --whole, all other tests follow where none of these fails.

A defect that no test finds may be none: some only change speed, and some change nothing. Read it
(--only N --show).
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from copied_tree import CopiedTree, copy_tree  # noqa: E402

# out of ten defects; kernels are part of the engine
SHARES = {"runner": 3, "runner_engine": 3, "kernels": 1, "runner_compare": 2, "runner_base": 1}
KERNELS = "runner_engine/kernels"
STRICTNESS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
}  # fmt: skip
OPPOSITES: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
}  # fmt: skip
FORMATS = {
    "float32": "bfloat16",
    "bfloat16": "float16",
    "float64": "float16",
    "int64": "int8",
    "int32": "int16",
}
C_PATTERNS: tuple[tuple[str, str, Callable[[str], str]], ...] = (
    ("a sign", r"(?<=\w )[+-](?= \w)", lambda found: "-" if found == "+" else "+"),
    ("a sum", r" \+= ", lambda _: " -= "),
    ("a number by one", r"(?<=[< ])\b\d+\b(?=;)", lambda found: str(int(found) + 1)),
    ("a comparison", r"(?<=\w) <(?= \w+; )", lambda _: " <="),
)
TIME_LIMIT_S = 900


@dataclass(frozen=True)
class Defect:
    """One change of one file."""

    kind: str
    file: str
    first_line: int
    last_line: int
    start: int  # in bytes
    end: int
    replacement: str

    def apply(self, source: bytes) -> bytes:
        """Return the file with the defect."""
        return source[: self.start] + self.replacement.encode() + source[self.end :]


@dataclass(frozen=True)
class Outcome:
    """What the tests made of a defect."""

    found_by: str | None
    is_cut_off: bool  # they did not end in time: the defect may hang them, or the machine is slow
    tests: int
    seconds: float

    def __str__(self) -> str:
        if self.is_cut_off:
            return f"UNDECIDED: no end within {TIME_LIMIT_S} s"
        return f"found by {self.found_by}" if self.found_by else f"NOT FOUND by {self.tests} tests"


class Places:
    """Finds where a Python file can get a defect."""

    def __init__(self, file: str, source: bytes) -> None:
        self.file, self.source = file, source
        self.starts = [0, *(match.end() for match in re.finditer(rb"\n", source))]
        self.defects: list[Defect] = []

    def offset(self, line: int, column: int) -> int:
        """Return a position in bytes."""
        return self.starts[line - 1] + column

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Return the start and end of a node."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def add(self, kind: str, node: ast.expr | ast.stmt, start: int, end: int, replacement: str) -> None:
        """Add one defect of a node."""
        last = node.end_lineno or node.lineno
        self.defects.append(Defect(kind, self.file, node.lineno, last, start, end, replacement))

    def replace_between(
        self, kind: str, parent: ast.expr, left: ast.expr, right: ast.expr, old: str, new: str
    ) -> None:
        """Replace an operator, which stands between two expressions."""
        start, end = self.span(left)[1], self.span(right)[0]
        pattern = rf"(?<![\w<>=!]){re.escape(old)}(?![\w<>=])".replace(r"\ ", r"\s+").encode()
        found = [*re.finditer(pattern, self.source[start:end])]
        if len(found) == 1:
            self.add(kind, parent, start + found[0].start(), start + found[0].end(), new)

    def visit(self, node: ast.AST, in_function: bool = False) -> None:
        """Look at a node and what is in it; annotations are no code."""
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if in_function:
            self.look_at(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self.visit(child, in_function or is_function)

    def look_at(self, node: ast.AST) -> None:
        """Add the defects that one node can get."""
        match node:
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
                if not is_sequence(left) and not is_sequence(right):
                    old, new = ("+", "-") if isinstance(op, ast.Add) else ("-", "+")
                    self.replace_between("a sign", node, left, right, old, new)
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                if type(op) in STRICTNESS:
                    self.replace_between("a comparison", node, left, right, *STRICTNESS[type(op)])
                elif type(op) in OPPOSITES:
                    self.replace_between("a condition", node, left, right, *OPPOSITES[type(op)])
            case ast.BoolOp(op=op, values=[left, right]):
                old, new = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
                self.replace_between("a condition", node, left, right, old, new)
            case ast.If(test=test) | ast.IfExp(test=test):
                start, end = self.span(test)
                text = self.source[start:end].decode()
                self.add("a condition", test, start, end, f"not ({text})")
            case ast.Subscript(slice=index):
                for inner in ast.walk(index):
                    self.number_by_one(inner)
            case ast.Call(func=ast.Name(id="range"), args=arguments):
                for argument in arguments:
                    self.number_by_one(argument)
            case ast.Raise():
                self.add("a swallowed error", node, *self.span(node), "pass")
            case ast.Expr(value=ast.Call()):
                self.add("a call left out", node, *self.span(node), "pass")
            case ast.With(items=[ast.withitem(context_expr=context, optional_vars=None)]):
                start, end = self.span(context)
                if re.search(rb"lock|condition", self.source[start:end].lower()):
                    self.add("a lost lock", context, self.span(node)[0], end, "if True")
            case ast.Attribute(attr=name) if name in FORMATS:
                end = self.span(node)[1]
                self.add("a number format", node, end - len(name), end, FORMATS[name])

    def number_by_one(self, node: ast.AST) -> None:
        """Make a number larger by one."""
        if isinstance(node, ast.Constant) and type(node.value) is int:
            self.add("a number by one", node, *self.span(node), str(node.value + 1))


def is_sequence(node: ast.expr) -> bool:
    """Whether an expression is a literal text, list or tuple, which cannot be subtracted."""
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    return is_text or isinstance(node, ast.JoinedStr | ast.List | ast.Tuple)


def places_in_c(file: str, source: bytes) -> Iterator[Defect]:
    """Yield the defects that a C file can get."""
    start = end = 0
    for number, line in enumerate(source.decode().splitlines(keepends=True), 1):
        start, end = end, end + len(line.encode())
        if line.lstrip().startswith(("//", "*", "/*", "#")):
            continue
        for kind, pattern, change in C_PATTERNS:
            for found in re.finditer(pattern, line.split("//")[0]):
                at = start + len(line[: found.start()].encode())
                yield Defect(kind, file, number, number, at, at + len(found[0].encode()), change(found[0]))


def all_places(package: str) -> list[Defect]:
    """Return every defect that the files of a package can get."""
    pattern = f"{KERNELS}/*.[ch]" if package == "kernels" else f"{package}/*.py"
    listed = subprocess.run(
        ["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True
    )
    defects: list[Defect] = []
    for file in listed.stdout.split():
        source = (ROOT / file).read_bytes()
        if package == "kernels":
            defects += places_in_c(file, source)
        else:
            places = Places(file, source)
            places.visit(ast.parse(source))
            defects += places.defects
    return defects


def draw(count: int, seed: int) -> list[Defect]:
    """Draw defects: packages by their shares, and in each package one kind after another."""
    numbers = random.Random(seed)
    by_kind: dict[str, dict[str, list[Defect]]] = {}
    for package in SHARES:
        by_kind[package] = defaultdict(list)
        for defect in all_places(package):
            by_kind[package][defect.kind].append(defect)
    turns = [package for package, share in SHARES.items() for _ in range(share)]
    drawn = []
    for number in range(count):
        kinds = by_kind[turns[number % len(turns)]]
        kind = sorted(kinds)[(number // len(turns) + number) % len(kinds)]
        drawn.append(numbers.choice(kinds[kind]))
    return drawn


class Executing:
    """Which tests execute a line, from the records of `tools.executed_lines`."""

    def __init__(self, folder: Path, limit_s: float) -> None:
        self.limit_s = limit_s
        self.seconds: dict[str, float] = {}
        self.tests: dict[tuple[str, int], list[str]] = defaultdict(list)
        for file in sorted(folder.glob("*.jsonl")):
            for text in file.open():
                test, seconds, lines = json.loads(text)
                self.seconds[test] = seconds
                for name, numbers in lines.items():
                    for number in numbers:
                        self.tests[name, number].append(test)

    def __call__(self, defect: Defect) -> list[str]:
        if not defect.file.endswith(".py"):  # of C no lines are known
            return importing(defect)
        lines = range(defect.first_line, defect.last_line + 1)
        tests = {test for line in lines for test in self.tests[defect.file, line]}
        chosen, seconds = [], 0.0
        for test in sorted(tests, key=lambda test: self.seconds[test]):
            seconds += self.seconds[test]
            if seconds > self.limit_s:
                break
            chosen.append(test)
        return chosen


def importing(defect: Defect) -> list[str]:
    """Return the test files that import a defect's module; of a kernel, the engine's tests."""
    if not defect.file.endswith(".py"):
        return ["tests/engine"]
    module = re.escape(defect.file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    parent, _, name = module.rpartition(r"\.")
    pattern = re.compile(
        rf"^\s*(from {module} import|import {module}\b|from {parent} import .*\b{name}\b)", re.M
    )
    return sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if pattern.search(path.read_text())
    )


def run_tests(copy: CopiedTree, tests: list[str], marks: str) -> str | None:
    """Run tests until one fails, and return its id, or what else ended the run; TimeoutExpired without an end."""
    if not tests:
        return None
    chosen = copy.home / "tests.txt"
    chosen.write_text("".join(f"{test}\n" for test in tests))
    python = str(copy.home / "bin" / "python")
    command = [python, *["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m"], marks]
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.Popen(
        [*command, f"@{chosen}"],
        cwd=copy.folder, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        raise
    if process.returncode in (0, 5):  # 5: the marks leave no test
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - |$)", output, re.M)
    return failed[1] if failed else f"exit code {process.returncode}: {output[-200:]!r}"


def try_defect(copy: CopiedTree, defect: Defect, tests: list[str], marks: str, is_whole: bool) -> Outcome:
    """Plant a defect, run tests, and take it out again."""
    path, started = copy.folder / defect.file, time.perf_counter()
    original, status = path.read_bytes(), path.stat()
    path.write_bytes(defect.apply(original))
    found, is_cut_off = None, False
    try:
        found = run_tests(copy, tests, marks)
        if found is None and is_whole:
            found = run_tests(copy, ["tests"], marks)
    except subprocess.TimeoutExpired:
        is_cut_off = True
    finally:
        path.write_bytes(original)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # so that compiled files fit again
    return Outcome(found, is_cut_off, len(tests), time.perf_counter() - started)


def shown(defect: Defect) -> str:
    """Return the changed line, before and after."""
    source = (ROOT / defect.file).read_bytes()
    lines = [text.decode().splitlines() for text in (source, defect.apply(source))]
    before = "\n".join(f"  - {line.strip()}" for line in lines[0][defect.first_line - 1 : defect.last_line])
    after = "\n".join(f"  + {line.strip()}" for line in lines[1][defect.first_line - 1 : defect.last_line])
    return f"{before}\n{after}"


def main() -> None:
    """Plant defects one after another, and print who found them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=60, help="how many defects are drawn (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the draw (default 1)")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the defects to try")
    parser.add_argument("--lines", type=Path, help="a folder of records of tools.executed_lines")
    parser.add_argument(
        "--marks", default="not thorough", help="which tests, as pytest's -m (default: 'not thorough')"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=300,
        help="of tests that execute the line, by the record (default 300)",
    )
    parser.add_argument(
        "--whole", action="store_true", help="run all tests where the chosen ones find nothing"
    )
    parser.add_argument(
        "--at-once", type=int, default=1, help="how many defects are tried at once (default 1)"
    )
    parser.add_argument("--show", action="store_true", help="show the defects, and run nothing")
    options = parser.parse_args()
    defects = draw(options.count, options.seed)
    numbers = options.only or range(1, len(defects) + 1)
    tests_of: Callable[[Defect], list[str]] = (
        Executing(options.lines, options.seconds) if options.lines else importing
    )
    if options.show:
        for number in numbers:
            defect = defects[number - 1]
            print(f"{number:3} {defect.file}:{defect.first_line} · {defect.kind}\n{shown(defect)}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        copies: Queue[CopiedTree] = Queue()
        for name in range(options.at_once):
            folder = Path(scratch) / f"copy{name}"
            copy_tree(folder)
            copies.put(CopiedTree(folder, Path(scratch) / f"environment{name}"))

        def attempt(number: int) -> bool:
            defect, copy = defects[number - 1], copies.get()
            try:
                outcome = try_defect(copy, defect, tests_of(defect), options.marks, options.whole)
            finally:
                copies.put(copy)
            place = f"{defect.file}:{defect.first_line}"
            print(f"{number:3} {place} · {defect.kind} · {outcome} · {outcome.seconds:.0f} s", flush=True)
            return outcome.found_by is not None

        with ThreadPoolExecutor(options.at_once) as pool:
            found = [*pool.map(attempt, numbers)]
    print(f"found: {sum(found)} of {len(found)} defects")


if __name__ == "__main__":
    main()

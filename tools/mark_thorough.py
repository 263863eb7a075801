"""Marks tests that `make test` can do without: `python -m tools.mark_thorough --lines FOLDER [--write]`.

FOLDER has records of `tools.executed_lines`. What stays executes each line of the packages FOLD times, where so many
tests do: all tests that take less than QUICK_S, and of the others those that execute most lines a second that are
missing yet, down to LEAST_RATE lines a second. Tests of processes execute few lines in their own process: of those of
a file the shortest stays, and all in FOLDERS_WHOLE, as do tests of STRUCTURE. A test function of which no case stays
becomes `thorough`, one of which a few stay `sampled(few)`. Functions that would save less than LEAST_SAVED_S stay as
they are, and so do files that are marked as a whole. Run `tools.plant_defects` before and after.
"""

from __future__ import annotations

import argparse
import ast
import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLD = 2
QUICK_S, LEAST_SAVED_S = 0.2, 0.4
LEAST_RATE = 3.0
PROCESS_LINES, PROCESS_S, MAX_PROCESS_S = 80, 1.0, 8.0
STRUCTURE = re.compile(
    r"tests/test_(house|names|public|packaging|recipes)\.py"
)  # they read files, and execute little
FOLDERS_WHOLE = ("golden/", "tests/test_cli", "tests/grid/test_survival", "hostile/")


@dataclass
class Recorded:
    """What a run of tests has shown, by the tests' ids."""

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, frozenset[tuple[str, int]]] = field(default_factory=dict)

    def read(self, folder: Path) -> None:
        """Add the records of a folder."""
        for file in sorted(folder.glob("*.jsonl")):
            for text in file.open():
                test, self.seconds[test], lines = json.loads(text)
                self.lines[test] = frozenset((name, at) for name, all_at in lines.items() for at in all_at)


def tests_that_stay(recorded: Recorded) -> set[str]:
    """Return the tests that `make test` runs."""
    seconds, lines = recorded.seconds, recorded.lines
    stay = {test for test in seconds if seconds[test] < QUICK_S or STRUCTURE.match(test)}
    executed: Counter[tuple[str, int]] = Counter(line for test in stay for line in lines[test])

    def rate(test: str) -> float:
        return sum(executed[line] < FOLD for line in lines[test]) / seconds[test]

    queue = [(-rate(test), test) for test in seconds if test not in stay]
    heapq.heapify(queue)
    while queue:
        _, test = heapq.heappop(queue)
        now = rate(test)  # others may have executed its lines meanwhile
        if queue and now < -queue[0][0]:
            heapq.heappush(queue, (-now, test))
        elif now < LEAST_RATE:
            break
        else:
            stay.add(test)
            executed.update(lines[test])
    return stay | set(tests_of_processes(recorded))


def tests_of_processes(recorded: Recorded) -> Iterator[str]:
    """Yield the tests of processes that stay."""
    by_file: dict[str, list[str]] = defaultdict(list)
    for test, seconds in sorted(recorded.seconds.items(), key=lambda item: item[1]):
        if len(recorded.lines[test]) < PROCESS_LINES and seconds > PROCESS_S:
            by_file[test.split("::")[0]].append(test)
    for file, tests in by_file.items():
        if any(part in file for part in FOLDERS_WHOLE):
            yield from tests
        elif recorded.seconds[tests[0]] < MAX_PROCESS_S:
            yield tests[0]


def cases_that_stay(recorded: Recorded) -> dict[str, int]:
    """Return how many cases stay of each test function that is thinned out."""
    stay, cases = tests_that_stay(recorded), defaultdict(list)
    for test in recorded.seconds:
        cases[test.split("[")[0]].append(test)
    thinned = {}
    for function, tests in cases.items():
        saved_s = sum(recorded.seconds[test] for test in tests if test not in stay)
        if saved_s >= LEAST_SAVED_S:
            thinned[function] = sum(test in stay for test in tests)
    return thinned


def functions(body: list[ast.stmt], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield the functions of a file by their names in a test's id."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from functions(node.body, (*above, node.name))
        elif isinstance(node, ast.FunctionDef):
            yield "::".join((*above, node.name)), node


def marked(text: str, thinned: dict[str, int]) -> str:
    """Return a test file with marks above functions."""
    lines, changes = text.splitlines(keepends=True), []
    for name, node in functions(ast.parse(text).body):
        marks = {ast.unparse(mark): mark for mark in node.decorator_list}
        if name not in thinned or "pytest.mark.thorough" in marks:
            continue
        mark = f"sampled({thinned[name]})" if thinned[name] else "thorough"
        first = min([node.lineno, *(known.lineno for known in node.decorator_list)])
        old = [known.lineno for words, known in marks.items() if "mark.sampled" in words]
        indent = re.match(r"\s*", lines[node.lineno - 1])
        assert indent is not None
        start, end = (old[0], old[0]) if old else (first, first - 1)
        changes.append((start, end, f"{indent[0]}@pytest.mark.{mark}\n"))
    for start, end, line in sorted(changes, reverse=True):
        lines[start - 1 : end] = [line]
    done = "".join(lines)
    if changes and not re.search(r"^import pytest$", done, re.M):
        done = done.replace("annotations\n", "annotations\n\nimport pytest\n", 1)
    return done


def main() -> None:
    """Print what stays, and write the marks where asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--lines", type=Path, required=True, help="a folder of records of tools.executed_lines"
    )
    parser.add_argument("--write", action="store_true", help="write the marks into the test files")
    options = parser.parse_args()
    recorded = Recorded()
    recorded.read(options.lines)
    stay, thinned = tests_that_stay(recorded), cases_that_stay(recorded)
    for what, tests in (("all tests", [*recorded.seconds]), ("those that stay", [*stay])):
        executed = frozenset[tuple[str, int]]().union(*(recorded.lines[test] for test in tests))
        seconds = sum(recorded.seconds[test] for test in tests)
        print(f"{what}: {len(tests):,} tests, {seconds:,.0f} s, {len(executed):,} lines")
    by_file: dict[str, dict[str, int]] = defaultdict(dict)
    for function, cases in thinned.items():
        file, _, name = function.partition("::")
        by_file[file][name] = cases
    for file, of_file in by_file.items():
        path = ROOT / file
        if not path.exists():
            print(f"{file} is gone")
        elif "mark.smoke" not in (text := path.read_text()) and options.write:
            path.write_text(marked(text, of_file))


if __name__ == "__main__":
    main()

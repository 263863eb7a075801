"""Type-check the programs that tests and benchmarks hold as strings. `python -m
tools.check_string_programs`.

`python -c` runs them in a process of its own, so mypy does not see them where they are written.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("bench", "tests", "tools")
# other kinds of errors are frequent in strings that a test completes before it runs them
ERROR_KINDS = ("[attr-defined]", "[call-arg]", "[import-not-found]")
VALUE = "value_"  # stands where an f-string inserts a value
# a module that is inserted, one that a test writes itself, and one that is imported from where it is used
TOLERATED = (VALUE, 'named "library"', "does not explicitly export")


def find_string_programs(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each string that imports one of our packages."""
    nodes = [*ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    parts_of_others = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if id(node) in parts_of_others:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else VALUE for part in node.values]
            text = "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if "import" in text and "runner" in text and _is_program(text := textwrap.dedent(text)):
            yield node.lineno, text


def _is_program(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def main() -> int:
    """Print mypy's errors about the programs, each with the place of its string."""
    with tempfile.TemporaryDirectory() as folder:
        places: dict[str, str] = {}
        for file in (file for top in FOLDERS for file in sorted((ROOT / top).rglob("*.py"))):
            for line, text in find_string_programs(file):
                name = f"program_{len(places)}.py"
                places[name] = f"{file.relative_to(ROOT)}:{line}"
                (Path(folder) / name).write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "mypy", *(str(Path(folder) / name) for name in places)]
        checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    errors = []
    for output_line in checked.stdout.splitlines():
        name, _, message = output_line.rpartition("/")[2].partition(":")
        if (
            name in places
            and message.endswith(ERROR_KINDS)
            and not any(text in message for text in TOLERATED)
        ):
            errors.append(f"{places[name]}, line {message}")
    print(*errors, f"{len(places)} programs in strings, {len(errors)} errors", sep="\n")
    # 2: mypy could not check them, and says why on either stream
    if checked.returncode > 1 or checked.stderr:
        print(checked.stdout, checked.stderr, sep="\n", file=sys.stderr)
        return 1
    return bool(errors)


if __name__ == "__main__":
    sys.exit(main())

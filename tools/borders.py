"""Prints which names the runner uses of the engine and of the comparison: `python tools/borders.py [--list]`.

Imports inside functions count, too. A name is a name of a module, or the module where all of it is imported.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BORDERS = (("runner", "runner_engine"), ("runner", "runner_compare"))
# whose __init__ lists what is public
DOORS = ("runner_engine", "runner_engine.checkpoints", "runner_compare", "runner_compare.statistics")


def crossing(user: str, package: str, root: Path = ROOT) -> dict[str, set[str]]:
    """Return the full names of a package that another package uses, each with the modules that use
    it."""
    users: dict[str, set[str]] = defaultdict(set)
    for path in sorted((root / user).rglob("*.py")):
        for name in _imported_by(path):
            if name.split(".")[0] == package:
                users[name].add(path.relative_to(root).as_posix())
    return dict(users)


@cache
def _imported_by(path: Path) -> list[str]:
    """Return the names that a file imports, parsed once."""
    return [
        name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for name in _imported(node)
    ]


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def is_listed_in(name: str, doors: Sequence[str], root: Path = ROOT) -> bool:
    door, _, own = name.rpartition(".")
    return door in doors and f'    "{own}": "' in (root / door.replace(".", "/") / "__init__.py").read_text()


def main() -> None:
    """Print the number of names over each border, and with --list the names with how many files use
    them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the names, and how many files use each")
    is_listed = parser.parse_args().list
    for user, package in BORDERS:
        names = crossing(user, package)
        doors = [door for door in DOORS if door.split(".")[0] == package]
        through = sum(is_listed_in(name, doors) for name in names)
        print(f"{user} -> {package}: {len(names)} names, {through} of them through {' and '.join(doors)}")
        if is_listed:
            for name, files in sorted(names.items()):
                print(f"{len(files):6}  {name}")


if __name__ == "__main__":
    main()

"""The first line of every benchmark, printed before its first measurement."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def announce() -> None:
    """Print this script's command on stderr: stdout is for the table, and for JSON of own processes."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script
    print(f"running: {shlex.join(['python', str(name), *sys.argv[1:]])}", file=sys.stderr, flush=True)


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, and print the command."""
    options = parser.parse_args()
    announce()
    return options

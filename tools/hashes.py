"""Writes constraints-hashes.txt anew: the pins of constraints.txt with the digests of all their
files (`make hashes`).

torch has none: its builds for CPUs come from another index than its builds for GPUs, and either
will do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "constraints-hashes.txt"
WITHOUT = "torch=="
HEAD = (
    "# The versions of constraints.txt with the digests of their files (`make hashes`), but those of torch.\n"
)


def without_torch(text: str) -> str:
    """Return the lines of a file of pins without the digests of torch."""
    lines = [HEAD]
    inside = False
    for line in text.splitlines():
        if not line.startswith(" "):
            inside = line.startswith(WITHOUT)
            lines.append(line.removesuffix(" \\") + "\n" if inside else line + "\n")
        elif not inside:
            lines.append(line + "\n")
    return "".join(lines)


def main() -> int:
    """Ask the index for the digests, and write the file."""
    options = [
        "--no-deps",
        "--generate-hashes",
        "--universal",
        "--python-version",
        "3.11",
        "--no-emit-index-url",
    ]
    options += ["--no-header", "--no-annotate", "--quiet"]
    command = [sys.executable, "-m", "uv", "pip", "compile", *options, str(ROOT / "constraints.txt")]
    done = subprocess.run(command, env=os.environ, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        FILE.write_text(without_torch(done.stdout))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())

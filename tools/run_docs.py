"""Run the commands of the pages and put in what they print today. `python -m tools.run_docs FOLDER PAGE...`.

Every block that shows commands after `$ ` is run from top to bottom, page after page, in one folder, so that a page may
stand on what an earlier one has recorded. Shown is what goes to stdout, else the error. An output with a line `…` in
it, or a line that ends in `, …`, is an excerpt: it stays, and what is printed today is shown beside it on stderr.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from tools.check_docs import FENCE, ROOT

TITLE = re.compile(r"model=(\S+)  quantization=.*  task=(\S+)")
RULE = re.compile(r" *─{20,}")


@dataclass
class Shown:
    """A command of a page and the output that the page shows for it."""

    command: str  # as it is typed, over several lines where it is long
    output: list[str]

    @property
    def excerpt(self) -> bool:
        """Whether the page leaves out a part of the output."""
        return any(line == "…" or line.endswith(", …") for line in self.output)


def shown_in(block: str) -> Iterator[Shown]:
    """Yield the commands of a code block that come after `$ `, each with its output."""
    at: Shown | None = None
    for line in block.splitlines()[1:-1]:
        if line.startswith("$ "):
            if at:
                yield at
            at = Shown(line.removeprefix("$ "), [])
        elif at and at.command.endswith("\\") and not at.output:
            at.command += f"\n{line}"
        elif at:
            at.output.append(line)
    if at:
        yield at


def run(commands: list[str], folder: Path) -> list[list[str]]:
    """Run commands one after the other in one shell in a folder; return the lines that each prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "\n".join(
        f"{command}\necho $? > .code-{place}" if _sets_variable(command) else _kept(command, place)
        for place, command in enumerate(commands)
    )
    subprocess.run(["bash", "-c", script], cwd=folder, env=os.environ | {"PATH": path}, check=False)
    found = []
    for place in range(len(commands)):
        texts = [folder / f".{stream}-{place}" for stream in ("out", "err")]
        out, err = (text.read_text(encoding="utf-8") if text.exists() else "" for text in texts)
        for text in (*texts, folder / f".code-{place}"):
            text.unlink(missing_ok=True)
        found.append(tidy(out or "\n".join(re.findall("^(?:error: |[0-9n]).*", err, re.MULTILINE)), folder))
    return found


def _sets_variable(command: str) -> bool:
    return re.match(r"[A-Z]+=", command) is not None


def _kept(command: str, place: int) -> str:
    return f"{{ {command}\n}} > .out-{place} 2> .err-{place}"


def tidy(text: str, folder: Path) -> list[str]:
    """Return lines as the pages show them: no padding, one empty line in a row, places of this machine as `...`."""
    for place in (str(folder.resolve()), str(ROOT)):
        text = text.replace(place, "...")
    lines = [line.rstrip() for line in text.rstrip().splitlines()]
    return [line for line, before in zip(lines, ["-", *lines], strict=False) if line or before]


def renewed(page: Path, folder: Path) -> str:
    """Run all that a page shows; return the page with the new outputs."""

    def renew(match: re.Match[str]) -> str:
        block, shown = match[0], list(shown_in(match[0]))
        if not any(item.output for item in shown):
            return block
        lines = block.splitlines()[:1]
        for item, now in zip(shown, run([item.command for item in shown], folder), strict=True):
            if item.excerpt:
                print(f"{page.name}: an excerpt of\n$ {item.command}", *now, sep="\n", file=sys.stderr)
            lines += [*f"$ {item.command}".splitlines(), *(item.output if item.excerpt else now)]
        return "\n".join([*lines, "```"])

    return FENCE.sub(renew, page.read_text(encoding="utf-8"))


@dataclass
class Table:
    """What does not depend on the machine in a table that is shown: its kind, and the names of its rows or columns."""

    kind: str
    names: list[str]
    excerpt: bool = False


def tables(lines: list[str]) -> Iterator[Table]:
    """Yield the tables of an output: reports by their rows, a line of JSON by its keys, all others by their columns."""
    job = caption = ""
    for place, line in enumerate(lines):
        if title := TITLE.fullmatch(line):
            job, caption = title[2] + " by the stub" * (title[1] == "stub"), ""
            report = _until_empty(lines[place + 2 :])
            rows = [row for row in report if row.startswith("  ")]
            yield Table(job, [re.split(" {2,}", row.strip())[0] for row in rows], "…" in report)
        elif line.startswith('{"job_id"'):
            yield Table("json", [*json.loads(line), *json.loads(line)["metrics"]])
        elif RULE.fullmatch(line):
            head = _until_empty(lines[:place][::-1])[::-1]
            names = [name for part in head for name in re.split(" {2,}", part.strip())]
            if "status" in names and names[0] == "job":  # the keys in which jobs differ stand between
                yield Table("grid", names[names.index("status") :])
            elif "state" in names:
                yield Table("plan", names[names.index("state") :])
            elif "accuracy" in names:
                kind = "comparison" if "Holm" in names else "runs"
                yield Table(kind, [name for name in names[names.index("n") :] if name != "Pareto"])
            elif job:
                yield Table(f"rows of {job}" + f", {caption}" * bool(caption), names)
        elif job and line not in ("", "…") and not line.startswith(" "):
            caption = line  # of a further table


def _until_empty(lines: list[str]) -> list[str]:
    return list(takewhile(str.strip, lines))


def main() -> None:
    """Renew the pages that are named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:]:
        page = Path(name).resolve()
        page.write_text(renewed(page, folder), encoding="utf-8")


if __name__ == "__main__":
    main()

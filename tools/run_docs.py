"""Renew the pages from runs: `python -m tools.run_docs` (`make pages`), or with PAGE... those pages
alone.

Every block that shows commands after `$ `, and what they print, is run from top to bottom. Pages
that tell one story (STORIES) share a folder, so that a later one finds what an earlier one has
recorded; every other page has an empty folder of its own. The pages show stdout, and stderr if
stdout is empty or the command fails. If only measured figures differ (tools/measured.py), a story stays unchanged, so
that a second run changes nothing; `--times` renews these figures, too.

Before a block or a picture, a comment that readers do not see may say what it needs:

    <!-- first: COMMAND -->     commands that are run, and not shown
    <!-- server: COMMAND -->    a server that runs until the end of the page, or until a block that shows ^C
    <!-- picture: COMMAND -->   what makes the picture that follows, as the file $PICTURE

A file that a page shows by `$ cat FILE` is written as it is shown. An output with a line `…` in it, or a line that
ends in `, …`, is an excerpt: today's lines take the places of its lines. A block after a paragraph that begins with
*Example* (MACHINE, DATE) is not run: it is listed. A block that shows only commands is not run either:
`python -m tools.check_docs` composes it, as all the others.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools import families
from tools.check_docs import EXAMPLE, ROOT, UNRENEWED, pages
from tools.measured import same
from tools.page_machine import ASKS, SERVES, Failed, Machine, empty_folder
from tools.shown import Shown, renewed_excerpt, shown_in

STORIES = (  # pages that share one folder, in this order
    ("docs/models.md", "docs/compare.md"),
)
NEEDS = re.compile(
    r"(?P<notes>(?:^<!-- (?:first|server|picture): [^>]*-->\n)*)"
    r"(?:(?P<block>^```.*?^```$)|!\[[^\]]*\]\((?P<picture>[^)]+)\))",
    re.MULTILINE | re.DOTALL,
)
NOTE = re.compile(r"<!-- (first|server|picture): (.*?) -->", re.DOTALL)


@dataclass
class Renewal:
    """A page with today's outputs."""

    page: Path
    before: str
    now: str = ""
    differs: bool = False  # in more than measured figures
    pictures: dict[Path, Path] = field(default_factory=dict)  # new files by their paths
    remarks: list[str] = field(default_factory=list)


def renewed(page: Path, machine: Machine) -> Renewal:
    """Run all commands of a page; return the page with the new outputs."""
    text = page.read_text(encoding="utf-8")
    renewal = Renewal(page, text)

    def renew(match: re.Match[str]) -> str:
        line = text[: match.start()].count("\n") + 1
        notes = [(kind, command) for kind, command in NOTE.findall(match["notes"])]
        if example := EXAMPLE.search(text[: match.start()]):
            renewal.remarks.append(f"not run, an example: {_name(page)}:{line}: {example[1]}")
            return match[0]
        try:
            if match["picture"]:
                _draw(renewal, notes, match["picture"], machine)
                return match[0]
            return match["notes"] + _renewed_block(renewal, match["block"], notes, machine)
        except Failed as error:  # the block stays, and the others are renewed
            renewal.remarks.append(f"failed: {_name(page)}:{line}: {error}")
            return match[0]

    try:
        renewal.now = NEEDS.sub(renew, text)
    finally:
        machine.end_server()
    return renewal


def _renewed_block(renewal: Renewal, block: str, notes: list[tuple[str, str]], machine: Machine) -> str:
    """Run what a block needs and what it shows; return it with today's outputs."""
    shown = list(shown_in(block))
    if not any(item.output for item in shown):
        return block
    _prepare(renewal, notes, machine)
    lines, variables = block.splitlines()[:1], ""
    for item in shown:
        if re.match(r"[A-Z]+=[^ ]*(\"|'|$)", item.command) and not item.output:
            variables += f"{item.command}\n"
            now = []
        else:
            now = _output(renewal, item, variables, machine)
        renewal.differs |= not same(item.command, item.output, now)
        lines += [*(f"$ {item.command}" if item.command != "^C" else "^C").splitlines(), *now]
    return "\n".join([*lines, "```"])


def _prepare(renewal: Renewal, notes: list[tuple[str, str]], machine: Machine) -> None:
    for kind, command in notes:
        with _announced(renewal.page, command):
            if kind == "first":
                machine.run(command)
            elif kind == "server":
                machine.serve(command)


def _output(renewal: Renewal, item: Shown, variables: str, machine: Machine) -> list[str]:
    """Run one command of a block; return the output for the page."""
    if file := re.fullmatch(r"cat (\S+)", item.command):
        (machine.folder / file[1]).write_text("\n".join([*item.output, ""]), encoding="utf-8")
    typed = [line.removeprefix(ASKS) for line in item.output if line.startswith(ASKS)]
    with _announced(renewal.page, item.command):
        if item.command == "^C":
            now = machine.end_server()
        elif SERVES.search("\n".join(item.output)):
            now = machine.serve(item.command)
        else:
            fails = any(line.startswith(("error: ", "requirement failed: ")) for line in item.output)
            now = machine.run(item.command, variables, typed or None, fails)
    if not item.excerpt:
        return now
    excerpt = renewed_excerpt(item.output, now)
    if excerpt is None:
        raise Failed("\n".join([f"nothing in this looks like the excerpt of $ {item.command}", *now]))
    return excerpt


def _draw(renewal: Renewal, notes: list[tuple[str, str]], target: str, machine: Machine) -> None:
    place = (renewal.page.parent / target).resolve()
    for kind, command in notes:
        if kind == "picture":
            made = machine.folder / f".{place.name}"
            with (
                _announced(renewal.page, command),
                contextlib.suppress(Failed),
            ):  # a front needs an idle machine, for instance
                machine.run(command, f"PICTURE={made.name}")
            if made.exists():
                renewal.pictures[place] = made
            else:
                renewal.remarks.append(f"not drawn: {_name(place)}, by {command}")


class _announced:
    """Print on stderr which command was run and how long it took."""

    def __init__(self, page: Path, command: str) -> None:
        self.page, self.command = page, command

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        took = time.monotonic() - self.began
        if isinstance(error, Failed):
            error.args = (f"$ {self.command}: {error}",)
        print(
            f"{_name(self.page)}  {took:5.1f} s  $ {self.command.splitlines()[0]}",
            file=sys.stderr,
            flush=True,
        )


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name


def stories(named: list[Path]) -> Iterator[list[Path]]:
    """Yield the pages that are run together in one folder: all, or those with a page in `named`."""
    shared = [[ROOT / name for name in story] for story in STORIES]
    alone = [
        [page] for page in pages() if _name(page) not in UNRENEWED and not any(page in one for one in shared)
    ]
    alone += [[page] for page in named if not page.is_relative_to(ROOT)]
    alone += [[families.PAGE]]  # it is written in one piece
    yield from (story for story in [*shared, *alone] if not named or {*story} & {*named})


def renew_story(story: list[Path], times: bool) -> list[str]:
    """Run a story and renew its pages if they differ; return remarks: failures, examples, pictures
    not drawn."""
    if story == [families.PAGE]:
        families.main([])
        return []
    name = story[0].parent.name if _name(story[0]) == "experiments/README.md" else story[0].stem
    with empty_folder(name) as folder:
        machine = Machine(folder)
        done = [renewed(page, machine) for page in story]
        if times or any(renewal.differs for renewal in done):
            for renewal in done:
                renewal.page.write_text(renewal.now, encoding="utf-8")
                for place, made in renewal.pictures.items():
                    shutil.copyfile(made, place)
    return [remark for renewal in done for remark in renewal.remarks]


def main() -> int:
    """Renew the pages; return 1 if one could not be renewed."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.run_docs", description="Renew the pages from runs."
    )
    parser.add_argument("pages", nargs="*", type=lambda name: Path(name).resolve(), metavar="PAGE")
    parser.add_argument("--times", action="store_true", help="also if only measured figures differ")
    options = parser.parse_args()
    began, remarks = time.monotonic(), list[str]()
    for story in stories(options.pages):
        remarks += renew_story(story, options.times)
    print(*remarks, sep="\n" if remarks else "", file=sys.stderr)
    print(f"{len(remarks)} remarks after {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 1 if any(line.startswith("failed: ") for line in remarks) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The runs that a page shows: commands after `$ `, each with its output; the tables in an output;
excerpts of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import takewhile

from runner_base.printed_tables import NO_ROOM_FOR, SAME_IN_ALL_ROWS

TITLE = re.compile(r"model=(\S+)  quantization=.*  task=(\S+)")
RULE = re.compile(r" *─{20,}")
VERSUS = re.compile(r"\bvs \S+")  # names the baseline
ROW = re.compile(r"  \S")  # of a report; a line that continues it has more spaces
IF_KNOWN = ("needed",)  # a column that only some comparisons have
LIKE = 0.5  # the least likeness of a line of an excerpt and the line of today that replaces it


@dataclass
class Shown:
    """A command of a page and the output that the page shows for it."""

    command: str  # as typed; a long one has several lines
    output: list[str]

    @property
    def excerpt(self) -> bool:
        """Whether the page leaves out a part of the output."""
        return any(line == "…" or line.endswith(", …") for line in self.output)


def shown_in(block: str) -> Iterator[Shown]:
    """Yield the commands of a code block that come after `$ `, each with its output; `^C` is a
    command, too."""
    at: Shown | None = None
    for line in block.splitlines()[1:-1]:
        if line.startswith("$ ") or line == "^C":
            if at:
                yield at
            at = Shown(line.removeprefix("$ "), [])
        elif at and at.command.endswith("\\") and not at.output:
            at.command += f"\n{line}"
        elif at:
            at.output.append(line)
    if at:
        yield at


def renewed_excerpt(old: list[str], now: list[str]) -> list[str] | None:
    """Return today's lines in place of those that an excerpt shows; None if the output has no such
    lines.

    The parts of an excerpt are separated by `…`. The first part is the output's beginning and the
    last its end, unless `…` comes before or after. A single line at an end may differ completely
    today; several lines may not.
    """
    if "…" not in old:
        return [_cut(was, line) for was, line in zip(old, now, strict=True)] if len(old) == len(now) else None
    parts: list[list[str]] = [[]]
    for line in old:
        if line == "…":
            parts.append([])
        else:
            parts[-1].append(line)
    excerpt, at = list[str](), 0
    for number, part in enumerate(parts):
        places = range(at, len(now) - len(part) + 1)
        is_fixed = number in (0, len(parts) - 1)  # at the beginning or the end
        if is_fixed:
            places = places[:1] if number == 0 else places[-1:]
        most_alike = max(places, key=lambda place: (_likeness(part, now[place:]), -place), default=None)
        may_differ = is_fixed and sum(map(bool, part)) < 2
        if most_alike is None or (not may_differ and _likeness(part, now[most_alike:]) < LIKE):
            return None
        excerpt += ["…"] * (number > 0)
        excerpt += [_cut(was, line) for was, line in zip(part, now[most_alike:], strict=False)]
        at = most_alike + len(part)
    return excerpt


def _likeness(part: list[str], now: list[str]) -> float:
    """Return the likeness of a part of an excerpt and today's lines: that of the least alike
    pair."""
    pairs = [(_words(was), _words(line)) for was, line in zip(part, now, strict=False)]
    return min(
        (SequenceMatcher(None, *pair, autojunk=False).ratio() for pair in pairs if any(pair)), default=1.0
    )


def _words(line: str) -> str:
    return re.sub(r" +", " ", re.sub(r"\d[\d,.]*", "0", line))


def _cut(was: str, line: str) -> str:
    """Return today's line, cut after as many commas as the page shows."""
    if not was.endswith(", …"):
        return line
    return ", ".join([*line.split(", ")[: was.count(", ")], "…"])


@dataclass
class Table:
    """The parts of a table that do not depend on the machine: its kind, and the names of its rows
    or columns."""

    kind: str
    names: list[str]
    excerpt: bool = False
    shared: str = ""  # the line above it that says what all rows have, instead of a column
    left_out: tuple[str, ...] = ()  # the columns that the line below it names, for want of room

    def names_without(self, shared: str) -> list[str]:
        """Return the names but for one of each that a line says to be the same in all rows: `new
        tokens = 16` has one."""
        names = self.names[::-1]
        for part in filter(None, shared.split(" · ")):
            head = part.partition(" = ")[0]
            same = next((name for name in names if f" {head}".endswith(f" {name}")), None)
            if same:
                names.remove(same)
        return names[::-1]


def tables(lines: list[str]) -> Iterator[Table]:
    """Yield the tables of an output: reports by their rows, a line of JSON by its keys, all others
    by their columns."""
    job = caption = ""
    seen: Counter[str] = Counter()  # a table of many columns is printed in several
    for place, line in enumerate(lines):
        if title := TITLE.fullmatch(line):
            job, caption = title[2] + " by the stub" * (title[1] == "stub"), ""
            report = _until_empty(lines[place + 2 :])
            rows = [row for row in report if ROW.match(row)]
            yield Table(job, [re.split(" {2,}", row.strip())[0] for row in rows], "…" in report)
        elif line.startswith('{"job_id"'):
            yield Table("json", [*json.loads(line), *json.loads(line)["metrics"]])
        elif RULE.fullmatch(line):
            head = _until_empty(lines[:place][::-1])[::-1]
            names = [name for part in head for name in re.split(" {2,}", part.strip())]
            above = (
                it.removeprefix(SAME_IN_ALL_ROWS)
                for it in lines[max(0, place - 5) : place]
                if it.startswith(SAME_IN_ALL_ROWS)
            )
            shared = next(above, "")
            left_out = _left_out_columns(lines[place + 1 :])
            # before the status are the keys in which jobs differ
            if "status" in names and "job" in (*names, *left_out):
                yield Table("grid", names[names.index("status") :], shared=shared, left_out=left_out)
            elif "state" in names:
                yield Table("plan", names[names.index("state") :], shared=shared, left_out=left_out)
            elif lines[place - 1].startswith("file "):  # if transposed, in blocks of the same rows
                is_transposed = "accuracy" not in lines[place - 1]
                rows = _first_cells(lines[place + 1 :]) if is_transposed else names
                if "accuracy" in rows:
                    yield Table("model files", rows)
            elif {"accuracy", "/answer"} <= {*names}:
                # the lines above may be of another table
                last = len(names) - names[::-1].index("accuracy")
                yield Table("costs of answers", names[last:])
            elif answers := [name for name in names if name.startswith("accuracy [")]:
                # the table of the default output
                kind = "comparison" if "verdict" in names else "runs"
                columns = [VERSUS.sub("vs baseline", name) for name in names[names.index(answers[0]) :]]
                columns = [name for name in columns if name not in IF_KNOWN]
                yield Table(kind, columns, shared=shared, left_out=left_out)
            elif "accuracy" in names:
                kind = "all columns" if "Holm" in names else "all columns of runs"
                columns = [name for name in names[names.index("accuracy") :] if name != "Pareto"]
                yield Table(kind, columns, shared=shared)
            elif job:
                kind = f"rows of {job}" + f", {caption}" * bool(caption)
                seen[kind] += 1
                yield Table(kind + f", part {seen[kind]}" * (seen[kind] > 1), names)
        elif job and line not in ("", "…") and not line.startswith(" "):
            caption = line  # of a further table


def _left_out_columns(below: list[str]) -> tuple[str, ...]:
    """Return the columns for which the table above these lines had no room, and the last words of their heads."""
    rows = len(_until_empty(below))
    at_once = next((place for place in range(rows) if below[place].startswith(NO_ROOM_FOR)), rows + 1)
    text = " ".join(_until_empty(below[at_once:]))
    if not text.startswith(NO_ROOM_FOR):
        return ()
    names = text.removeprefix(NO_ROOM_FOR).partition(" (")[0].split(", ")
    return tuple(dict.fromkeys([*names, *(name.split()[-1] for name in names)]))


def _first_cells(below: list[str]) -> list[str]:
    """Return the names of the rows of a transposed table's block, which ends before the next block's head."""
    rows = takewhile(lambda row: not re.match(r"file {2,}|• |…", row), _until_empty(below))
    return [re.split(" {2,}", row.strip())[0] for row in rows if not row.startswith(" ")]


def _until_empty(lines: list[str]) -> list[str]:
    return list(takewhile(str.strip, lines))

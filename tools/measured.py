"""Which figures of an output are measured, and so differ between runs: times, speeds, memory, ids
of runs.

This is the only place that knows. Two outputs that differ in nothing else are the same.
"""

from __future__ import annotations

import json
import re
from itertools import takewhile
from typing import Any

from tools.shown import RULE, tables

# Rows of reports, columns of tables and keys of JSON whose values are measured, by a word of their
# name.
NAME = re.compile(
    r"second|tok/s|tok_per_s|per_s\b|_s$|/s\b|\brss|_rss|peak RSS|^speed|^load\b|load s$|^time$|decode|prefill"
    r"|^process memory|^MLflow run|mlflow_run_id|busy_share|^copying$|^noise$|^Pareto$|^energy",
    re.IGNORECASE,
)
# Commands of which every figure is measured: only the names of rows and columns and the jobs' ids
# are compared.
MEASURING = re.compile(r"\btask=(sweep|memory)\b|-cn (inference_sweep|memory_\w+)")
JOB = re.compile(r"\b[a-z]+-[0-9a-f]{12}\b")
# The memory of a team's calls depends on which of them overlap, as programs and other calls end
# sooner or later.
MEETING = re.compile(r"\btask=agents\b")
# the job's id depends on a manifest, which has the times of the parts
IN_PARTS = re.compile(r"\bmodel=parts\b")
HELD_AT_ONCE = re.compile(r"^  memory .*", re.MULTILINE)
COMPARES_MEASUREMENTS = re.compile(r"^(sweep|memory) · \d+ runs?\b", re.MULTILINE)
# The rest of a line, by its beginning; and lines that are printed only if the machine was idle, or
# only if not.
TEXT = (
    (re.compile(r"MLflow run [0-9a-f]{32}"), "MLflow run ~"),
    # a manifest has the times of the parts
    (re.compile(r"\b(verify|archive|merge)-[0-9a-f]{12}"), r"\1-~"),
    (re.compile(r"Free: [\d,]+ MiB"), "Free: ~"),
    (re.compile(r"one after another .*"), "one after another ~"),
    (re.compile(r"\d[\d,.]* ?(?=(s|ms|tok/s|tokens/s|GB/s|GFLOP/s|requests/s)\b)"), "~ "),
    (re.compile(r"( ·|,) \d+ of \d+ draft tokens accepted"), ""),
    (re.compile(r"\d+% of their time"), "~ of their time"),
)
PASSING = re.compile(r"^(• .*)?(Pareto|[Dd]ominate)|^• \d+ of \d+ speeds were not measured alone")


def same(command: str, old: list[str], now: list[str]) -> bool:
    """Whether two outputs of a command are the same, except for measured figures."""
    texts = ["\n".join(lines) for lines in (old, now)]
    if all(COMPARES_MEASUREMENTS.search(text) for text in texts):
        return list(tables(old)) == list(tables(now))
    if MEASURING.search(command):
        return (list(tables(old)), JOB.findall(texts[0])) == (list(tables(now)), JOB.findall(texts[1]))
    if MEETING.search(command):
        old, now = ([HELD_AT_ONCE.sub("  memory  ~", line) for line in lines] for lines in (old, now))
    if IN_PARTS.search(command):
        old, now = ([JOB.sub("~", line) for line in lines] for lines in (old, now))
    return without(old) == without(now)


def without(lines: list[str]) -> list[str]:
    """Return an output with `~` in place of each measured figure, and without widths that depend on
    these."""
    kept_lines, rest = list[str](), list(lines)
    while rest:
        line = rest.pop(0)
        if RULE.fullmatch(line):
            head = list(takewhile(_is_tabular, kept_lines[::-1]))[::-1]
            rows = list(takewhile(_is_tabular, rest))
            kept_lines[len(kept_lines) - len(head) :] = _table(head, rows)
            rest = rest[len(rows) :]
        elif line.startswith("{"):
            kept_lines.append(json.dumps(_json(json.loads(line))))
        elif not PASSING.search(line):
            kept_lines.append(line)
    return [_line(line) for line in kept_lines]


def _is_tabular(line: str) -> bool:
    """Whether a line has columns, or a part of one: text has single spaces only."""
    return line.startswith("  ") or "  " in line.strip()


def _json(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _json(inner, key) for key, inner in value.items()}
    return "~" if NAME.search(name) else value


def _line(line: str) -> str:
    """Return a line, or a row of a report, without measured figures."""
    if (row := re.fullmatch(r"  (\S+(?: \S+)*) {2,}(\S.*)", line)) and NAME.search(row[1]):
        return f"  {row[1]}  ~"
    for measured, instead in TEXT:
        line = measured.sub(instead, line)
    return re.sub(r" {2,}", "  ", line)


def _table(head: list[str], rows: list[str]) -> list[str]:
    """Return a table with one line per row, its cells separated by bars, and `~` in measured
    columns."""
    lines = [*head, *rows]
    width = max(map(len, lines), default=0)
    padded = [line.ljust(width) for line in lines]
    blank = "".join("#" if any(line[place] != " " for line in padded) else " " for place in range(width))
    spans = [match.span() for match in re.finditer(r"#+(?: #+)*", blank)]
    names = [" ".join(line[slice(*span)].strip() for line in padded[: len(head)]).strip() for span in spans]
    kept = [(name, span) for name, span in zip(names, spans, strict=True) if name != "Pareto"]
    cells = [
        [
            "~" if NAME.search(name) and line[slice(*span)].strip() else line[slice(*span)].strip()
            for name, span in kept
        ]
        for line in padded[len(head) :]
    ]
    return [" | ".join(name for name, _ in kept), *(" | ".join(row) for row in cells)]

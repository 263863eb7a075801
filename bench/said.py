"""The output of a command, in a form in which two checkouts can be compared: see same_answers.py.

Job ids, run ids, times, speeds and measured memory differ from run to run: they are masked, and the rest is kept.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import Any

MEASURED = "<measured>"
NOISE = re.compile(
    r"(^|[_/.])(measured|seconds|rss|peak|anon|steady|cuda|gpu|rest|bubble|busy|pss|best|mapped|spread|draft|accepted)([_/.]|$)"
    r"|_(s|ms)($|[_/])|_per_s|over_baseline|on_front|off_front|dominated"
)
LEFT_OUT = {
    "company",
    "contention",
    "measured",
    "checksum",
    "mlflow_run_id",
    "mlflow_uri",
    "run_id",
    "started_at",
    "versions",
    "tracking.parent_run_id",
}
FILE_STATE = {"mtime_ns", "inode", "place", "key", "state"}  # what is noted of files, which are copies on either side
WITH_MEASURES = {"result", "measured", "manifest", "comparison", "points", "memory"}  # JSON files, read as values
MEASURING = {"sweep", "memory"}  # tasks of which only the keys and rows can be compared
SKIPPED = re.compile(
    r"(^|/)(\.[^/]*|workers|mlartifacts|log\.txt|[^/]*\.log|config\.yaml|[^/]*\.(png|svg|html|md))(/|$)"
)
TASKS = "gsm8k|agents|generate|likelihood|chat|serve|sweep|memory|split|verify|merge|archive|pipeline"
JOB_ID = re.compile(rf"\b(?:{TASKS})-[0-9a-f]{{12}}\b")
TEXT_MASKS = [
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S*"), "<time>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<run id>"),
    (re.compile(r"^(\s*(?:speed|load|load_s|copying|seconds|peak_rss_mib|pipeline|over the import)  .*)$", re.M), None),
    (re.compile(r"((?:prefill|decode|peak_rss_mib|seconds|load_s|peak|then) [\d,.]+)"), None),
    (re.compile(r"([\d,.]+ MiB of main memory are free|Free: [\d,.]+ MiB of main memory)"), None),
    (re.compile(r"one after another ≤? ?[\d:,.]+(?: s)?(?: ± \d+ ?%)?"), "one after another <time>"),
    (re.compile(r"([\d,.]+ ?(?:tok/s|GB/s|MiB/s|ms|s|seconds)\b)"), None),
]
NUMBER = re.compile(r"\d[\d,.]*")
SIGNED = re.compile(r"[-+−]?(?:\d[\d,.]*|#)")
GUESSED = re.compile(r" · \d+ of \d+ guessed tokens right")  # tokens are guessed while that saves time
BY_SPEED = re.compile(r"(note:\s+)?decoding\s+read\s+more\s+than\s+main\s+memory\s+gives:[^:]*?caches")  # of a sweep
FRONT = re.compile(
    r"(• )?(no Pareto front|the Pareto front leaves out|dominated beyond noise)[^:]*: "
)  # depends on speed, and on other work of the machine
SEVERAL_JOBS = re.compile(r"[^\s,+\"]*<\w+ \d+>(?:(\+|, )[^\s,+\"]*<\w+ \d+>)+")


class Masks:
    """What differs between two runs by itself: the names of folders and jobs, and words that have become others."""

    def __init__(self, folders: dict[str, Path], reworded: Iterable[tuple[str, str]] = ()) -> None:
        self.folders = [(str(folder), name) for name, folder in folders.items()]
        self.jobs: dict[str, str] = {}
        self.reworded = [(old, re.compile(old, re.M), new) for old, new in reworded]
        self.used: Counter[str] = Counter()  # old words, and how often they were replaced

    def number(self, texts: list[str]) -> None:
        """Number jobs in the order in which these texts mention them."""
        for text in texts:
            for job_id in JOB_ID.findall(text):
                task = job_id.partition("-")[0].replace("pipeline", "generate")  # of model=parts, nowadays
                number = 1 + sum(name.startswith(f"<{task} ") for name in self.jobs.values())
                self.jobs.setdefault(job_id, f"<{task} {number}>")

    def names(self, text: str) -> str:
        """Replace folders and job ids by names, and old words by new ones."""
        for folder, name in self.folders:
            text = text.replace(folder, name)
        text = re.sub(r"(beside other work on) [\d.]+", r"\1 #", text)
        text = JOB_ID.sub(lambda job_id: self.jobs.get(job_id[0], "<job>"), text)
        text = SEVERAL_JOBS.sub(lambda jobs: jobs[1].join(sorted(jobs[0].split(jobs[1]))), text)  # else sorted by id
        for old, pattern, new in self.reworded:
            text, count = pattern.subn(new, text)
            self.used[old] += count
        return text


def printed(text: str, masks: Masks, measures: bool) -> list[str | dict[str, Any]]:
    """Return a command's output, line by line, without measurements."""
    text, lines = masks.names(text), []
    if GUESSED.search(text):  # guesses that are under way take memory, too
        text = re.sub(r"^ *model_mib .*", lambda line: NUMBER.sub("#", line[0]), GUESSED.sub("", text), flags=re.M)
    for pattern, word in TEXT_MASKS:
        text = pattern.sub(lambda line_cells, word=word: word or NUMBER.sub("#", line_cells[1]), text)  # type: ignore[misc]
    if (values := as_json(text)) is not None:
        return [plain(values, measures)]
    if measures:  # by words: the digits decide where a line is folded
        return [re.sub("─+", "─", SIGNED.sub("#", word)) for word in BY_SPEED.sub("", text).split()]
    if re.match(r"\w+(,[^,\n]+){9}", text):
        return list(by_column(text))
    header: list[str] = []
    for line, below in pairwise([*text.splitlines(), ""]):
        if FRONT.match(line):
            continue
        if (values := as_json(line)) is not None:
            lines.append(plain(values, measures))
            continue
        line_cells = cells(line)
        if re.match(r"\s*(─{3}|\|[ :-]*-{3})", below):
            header = line_cells
        elif 2 < len(line_cells) <= len(header):  # cells may be empty, but not those at the end, which were measured
            names = ["", *header][-len(line_cells) :]
            line_cells = [masked(cell, name) for name, cell in zip(names, line_cells, strict=True)]
        elif len(line_cells) == 2 and column(line_cells[0]):
            line_cells[1] = NUMBER.sub("#", line_cells[1])
        cells_of_line = "  ".join(re.sub("─+", "─", cell) for cell in line_cells)
        lines.append(cells_of_line)
    return lines


def as_json(text: str) -> dict[str, Any] | None:
    """Parse a text that is a JSON object, else return None."""
    try:
        return dict(json.loads(text)) if text.startswith("{") else None
    except ValueError:
        return None


def by_column(text: str) -> Iterator[dict[str, Any]]:
    """Return the rows of a CSV table without measurements."""
    for row in csv.DictReader(text.splitlines()):
        yield {name: MEASURED if column(name) or name in LEFT_OUT else value for name, value in row.items()}


def cells(line: str) -> list[str]:
    """Split a line of a table into its cells."""
    return [cell.strip() for cell in re.split(r"\s{2,}|\|", line.strip()) if cell.strip()]


def masked(cell: str, name: str) -> str:
    """Return a cell, without numbers if its column was measured; the Pareto front depends on speed, too."""
    return "#" if name in ("Pareto", "time") else NUMBER.sub("#", cell) if column(name) else cell


def column(name: str) -> bool:
    """Whether the column with this header has measurements."""
    return bool(NOISE.search(name) or re.search(r"tok/s|RSS|seconds|Pareto|^MiB$|(^|\s)s$", name))


def progress(text: str, masks: Masks, measures: bool) -> list[str | dict[str, Any]]:
    """Return a command's stderr in sorted order, because jobs of a grid end in any order."""
    lines = printed(re.sub(r"\[\d+/(\d+)\]", r"[·/\1]", text), masks, measures=False)
    return sorted((plain(line, measures) for line in lines), key=str)


def plain(value: Any, measures: bool, key: str = "") -> Any:
    """Return JSON without measurements; for a task that measures, without any numbers."""
    match value:
        case dict():
            values = {name: plain(one, measures, name) for name, one in value.items() if name not in LEFT_OUT}
            if value.get("draft_tokens") and "model_mib" in values:  # guesses that are under way take memory, too
                values["model_mib"] = MEASURED
            if key.endswith("/manifest.json"):  # of a promised file: its digest is one of file states
                values.pop("digest", None)
            return {name: one for name, one in values.items() if name not in FILE_STATE}
        case list():
            left_out = re.compile(f"{FRONT.pattern}|{BY_SPEED.pattern}" if measures else FRONT.pattern)
            return [plain(one, measures, key) for one in value if not left_out.match(str(one))]
        case bool() | None:
            return MEASURED if NOISE.search(key) else value
        case int() | float():
            return MEASURED if measures or NOISE.search(key) else value
        case str():
            return MEASURED if NOISE.search(key) else SIGNED.sub("#", value) if measures else value
    return value


def files(folder: Path, masks: Masks) -> dict[str, Any]:
    """Return the content of every file in a command's folder, by name."""
    names = {path: path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()}
    compared = {path: name for path, name in names.items() if not SKIPPED.search(name)}
    unnamed = [
        path for path, name in compared.items() if path.name == "result.json" and not masks.jobs.keys() & {*path.parts}
    ]
    by_params = sorted(unnamed, key=lambda path: masks.names(json.dumps(json.loads(path.read_text())["params"])))
    masks.number([path.parent.name for path in by_params])
    return {masks.names(name): content(path, masks) for path, name in compared.items()}


def content(path: Path, masks: Masks) -> Any:
    """Return a file's content: JSON and tables as values, text as lines, anything else as a digest."""
    try:
        return parsed(path, masks)
    except (ValueError, AttributeError):  # broken, or no objects
        return path.read_text(errors="replace").splitlines()


def parsed(path: Path, masks: Masks) -> Any:
    """Return the values in a file of a known form; ValueError if it does not have that form."""
    measures = path.parent.name.partition("-")[0] in MEASURING
    match path.suffix:
        case ".json" if path.stem in WITH_MEASURES:
            return plain(json.loads(masks.names(path.read_text())), measures)
        case ".jsonl":
            lines = [plain(json.loads(line), measures) for line in masks.names(path.read_text()).splitlines()]
            order = {"samples.jsonl": "index", "calls.jsonl": "id"}.get(path.name)  # lines that come in any order
            return sorted(lines, key=lambda line: (line.get(order, 0), *line)) if order else lines
        case ".csv":
            return list(by_column(masks.names(path.read_text())))
        case ".db":
            return sorted(runs(path, masks), key=str)
        case ".txt" | ".yaml" | ".json":
            return masks.names(path.read_text()).splitlines()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def runs(database: Path, masks: Masks) -> Iterator[dict[str, Any]]:
    """Return MLflow's data of each run."""
    with sqlite3.connect(database) as store:
        for run, name, status in store.execute("select run_uuid, name, status from runs").fetchall():
            about = {
                table: dict(store.execute(f"select key, value from {table} where run_uuid = ?", [run]).fetchall())
                for table in ("params", "tags", "latest_metrics")
            }
            tags, measures = about["tags"], about["tags"].get("task") in MEASURING
            about["tags"] = {key: key.startswith("fact.") and tags[key] for key in tags}
            about = json.loads(masks.names(json.dumps(about, ensure_ascii=False)))
            yield {"name": masks.names(name), "status": status} | plain(about, measures)


def of_lists(old: list[Any], new: list[Any], where: str) -> Iterator[tuple[str, str]]:
    """Compare two lists; of lines of text, one that is new or gone does not make those below it differ."""
    texts = all(isinstance(one, str) for one in [*old, *new])
    kinds = SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if texts else [("", 0, len(old), 0, len(new))]
    for kind, start, end, new_start, new_end in kinds:
        if kind == "equal":
            continue
        for at in range(start, max(end, start + new_end - new_start)):
            other = new_start + at - start
            if at < end and other < new_end:
                yield from differences(old[at], new[other], f"{where} [{at}]")
            elif at < end:
                yield f"{where} [{at}]", f"{str(old[at])[:400]!r} is gone"
            else:
                yield f"{where} [{at}]", f"{str(new[other])[:400]!r} is new"


def differences(old: Any, new: Any, where: str) -> Iterator[tuple[str, str]]:
    """Compare both recursively, and yield where they differ and how."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if key not in new or key not in old:
                yield f"{where} {key}", "is gone" if key not in new else "is new"
            else:
                yield from differences(old[key], new[key], f"{where} {key}".strip())
    elif isinstance(old, list) and isinstance(new, list):
        yield from of_lists(old, new, where)
    elif old != new or type(old) is not type(new):
        yield where, f"{str(old)[:400]!r} became {str(new)[:400]!r}"

"""What lm-evaluation-harness writes with `--output_path FOLDER --log_samples`, read without it.

A results file (`results_TIME.json`) says which model was evaluated and how. Beside it stands a file of samples for each
task (`samples_TASK_TIME.jsonl`), with a line for each document and filter: what was asked, what came back, and what
each metric makes of it. The lines have no checksums; that they are whole is known from the counts in the results file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from runner.core.errors import ConfigError, DataError
from runner.core.texts import read_json, read_json_lines

TIME = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")  # as the name of a results file ends
NEEDED = {"results": dict, "configs": dict, "config": dict}
OF_LINE = {"doc_id": int, "doc_hash": str}
MEANS = ("mean", "nanmean")


class Document(NamedTuple):
    """One line of samples."""

    line: int
    doc_id: int
    doc_hash: str
    target: str
    prompt_hash: str | None
    values: dict[str, Any]  # by metric


Documents = dict[int, Document]  # by doc_id, in the file's order


@dataclass
class Results:
    """One results file."""

    path: Path
    content: dict[str, Any]

    @property
    def time(self) -> str:
        """When it was written, as its name has it."""
        found = TIME.search(self.path.name)
        return found[1] if found else ""

    @property
    def tasks(self) -> list[str]:
        """The tasks that were evaluated, without their groups."""
        return list(self.content["configs"])

    def of(self, key: str, task: str) -> Any:
        """Return what a table of the file says of a task; None where it says nothing."""
        table = self.content.get(key)
        return table.get(task) if isinstance(table, dict) else None

    def samples(self, task: str) -> Path:
        """Return where a task's samples stand."""
        return self.path.with_name(f"samples_{task}_{self.time}.jsonl")

    def metrics(self, task: str) -> dict[str, dict[str, float]]:
        """Return the numbers of a task by filter and metric."""
        found: dict[str, dict[str, float]] = {}
        for key, value in (self.of("results", task) or {}).items():
            metric, comma, name = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                found.setdefault(name, {})[metric] = value
        return found

    def is_mean(self, task: str, metric: str) -> bool:
        """Whether a task's number is known to be the mean over its documents."""
        listed = (self.of("configs", task) or {}).get("metric_list") or []
        return any(
            it.get("metric") == metric and it.get("aggregation") in MEANS for it in listed if isinstance(it, dict)
        )

    def is_lower_better(self, task: str, metric: str) -> bool:
        """Whether less of a metric is better."""
        return (self.of("higher_is_better", task) or {}).get(metric) is False


def find(place: str) -> list[Results]:
    """Return the results below a folder, or the one file that is named, the newest first."""
    path = Path(place).expanduser()
    if path.is_file():
        if not TIME.search(path.name):
            need = "no results file of lm-eval: those are named results_TIME.json, and their samples by the same time"
            raise ConfigError(f"--lm-eval {place}: {need}")
        files = [path]
    elif path.is_dir():
        files = [file for file in path.rglob("*.json") if TIME.search(file.name)]
    else:
        raise ConfigError(f"--lm-eval {place}: there is no such folder")
    if not files:
        fix = f"lm-eval writes them with --output_path {place} --log_samples"
        raise ConfigError(f"--lm-eval {place}: no results of lm-eval (results_TIME.json) in it; {fix}")
    return sorted(map(_read_results, files), key=lambda it: (it.time, str(it.path)), reverse=True)


def _read_results(path: Path) -> Results:
    content = read_json(path, "--lm-eval")
    for key, kind in NEEDED.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise DataError(f"{path}: no results of lm-eval: an object with {', '.join(NEEDED)} was expected")
    return Results(path, content)


def read_documents(results: Results, task: str) -> dict[str, Documents]:
    """Return a task's documents by filter; DataError with file and line where one is damaged or missing."""
    path, metrics = results.samples(task), results.metrics(task)
    if not path.is_file():
        raise DataError(f"{results.path}: {path.name} is not beside it: lm-eval writes it with --log_samples")
    kept = {metric for of_filter in metrics.values() for metric in of_filter}
    found: dict[str, Documents] = {name: {} for name in metrics}
    last = 0
    for last, values in lines(path):
        name = str(values.get("filter", "none"))
        document = Document(
            last,
            values["doc_id"],
            values["doc_hash"],
            str(values.get("target", "")),
            values.get("prompt_hash"),
            {metric: value for metric, value in values.items() if metric in kept},
        )
        earlier = found.setdefault(name, {}).setdefault(document.doc_id, document)
        if earlier is not document:
            raise DataError(f"{path}, line {last}: document {document.doc_id} stands in line {earlier.line} already")
    counted = (results.of("n-samples", task) or {}).get("effective")
    for name, documents in found.items():
        if counted is not None and len(documents) < counted:
            counts = f"{results.path.name} counts {counted} documents, and filter {name} has {len(documents)}"
            raise DataError(f"{path}, line {last}: lines are missing before or behind it: {counts}")
    return found


def lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of each line of samples; DataError with file and line where one is none."""
    for number, values in read_json_lines(path):
        for key, kind in OF_LINE.items():
            if not isinstance(values, dict) or not isinstance(values.get(key), kind):
                raise DataError(f"{path}, line {number}: no sample of lm-eval: {key} is missing in it")
        yield number, values


def words_of(values: dict[str, Any]) -> tuple[str, str, str]:
    """Return what a line of samples asked, what was made of the answer, and the answer, for people to read."""
    given = values.get("arguments")
    arguments = [it for it in given.values() if isinstance(it, dict)] if isinstance(given, dict) else []
    asked = str(arguments[0].get("arg_0", "")) if arguments else ""
    said, kept = (_flat(values.get(key)) for key in ("resps", "filtered_resps"))
    choices = [str(it.get("arg_1", "")) for it in arguments]
    if len(choices) > 1 and len(choices) == len(kept):  # multiple choice: each has its log-likelihood
        nats = [_number(it) for it in kept]
        best = max(range(len(nats)), key=nats.__getitem__)
        return asked, f"{best} ({choices[best].strip()})", "\n".join(map(_scored, nats, choices))
    return asked, _text(kept[0]) if kept else "", _text(said[0]) if said else ""


def _flat(value: Any) -> list[Any]:
    """Return the answers to each request, of several to one the first: `[["text"]]` and `[[["-1.5", "True"]]]`."""
    items = value if isinstance(value, list) else []
    return [it[0] if isinstance(it, list) and it and isinstance(it[0], list) else it for it in items]


def _number(answer: Any) -> float:
    try:
        return float(answer[0])
    except (TypeError, ValueError, IndexError):
        return float("-inf")


def _scored(nats: float, choice: str) -> str:
    return f"{nats:9.3f} {choice.strip()}"


def _text(answer: Any) -> str:
    if isinstance(answer, list) and len(answer) == 1:
        return _text(answer[0])
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)

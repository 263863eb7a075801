"""Reads what lm-evaluation-harness writes with `--output_path FOLDER --log_samples`, without
importing it.

A results file (`results_TIME.json`) says which model was evaluated and how. Beside it is a file of
samples for each task (`samples_TASK_TIME.jsonl`), with a line for each document and filter: the
question, the answer, and the value of each metric. The lines have no checksums; the counts in the
results file show whether lines are missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from runner_base import ConfigError, DataError
from runner_base.texts import read_json, read_json_lines
from runner_compare.metrics import Better
from runner_compare.model.data import Question
from runner_compare.readers.files import file_name
from runner_compare.readers.shapes import Count, checked

# how the name of a results file ends
TIME = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")
NEEDED = ("results", "configs", "config")


class TaskConfig(msgspec.Struct):
    """The settings of a task."""

    output_type: str | None = None
    metric_list: list[Any] | None = None


class Samples(msgspec.Struct):
    """How many documents a task has."""

    effective: Count | None = None


class ResultsFile(msgspec.Struct, rename={"n_shot": "n-shot", "n_samples": "n-samples"}):
    """The shape of a results file."""

    results: dict[str, dict[str, Any]]
    configs: dict[str, TaskConfig]
    config: dict[str, Any]
    group_subtasks: dict[str, list[str]] | None = None
    n_shot: dict[str, Any] | None = None
    n_samples: dict[str, Samples] | None = None
    higher_is_better: dict[str, dict[str, bool | None] | None] | None = None
    versions: dict[str, Any] | None = None


class Line(msgspec.Struct):
    """The shape of a line of samples."""

    doc_id: int
    doc_hash: str
    prompt_hash: str | None = None


class Document(NamedTuple):
    """One line of samples."""

    line: int
    doc_id: int
    doc_hash: str
    target: str
    prompt_hash: str | None
    values: dict[str, Any]  # by metric
    cluster: str | None = None  # the family of documents that it belongs to

    @property
    def key(self) -> Question:
        """What pairs it with the same document of another run."""
        return self.doc_id, self.doc_hash, self.target


Documents = dict[int, Document]  # by doc_id, in the file's order


@dataclass
class Results:
    """One results file."""

    path: Path
    content: dict[str, Any]

    @property
    def time(self) -> str:
        """The time of writing, from its name."""
        match = TIME.search(self.path.name)
        return match[1] if match else ""

    @property
    def tasks(self) -> list[str]:
        """The tasks that were evaluated, without their groups."""
        return list(self.content["configs"])

    def of(self, key: str, task: str) -> Any:
        """Return a task's entry in one of the file's tables; None if there is none."""
        table = self.content.get(key)
        return table.get(task) if isinstance(table, dict) else None

    def samples(self, task: str) -> Path:
        """Return the path of a task's samples."""
        return self.path.with_name(file_name(f"samples_{task}_{self.time}.jsonl", self.path))

    def metrics(self, task: str) -> dict[str, dict[str, float]]:
        """Return a task's figures by filter and metric."""
        by_filter: dict[str, dict[str, float]] = {}
        for key, value in (self.of("results", task) or {}).items():
            metric, comma, name = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                by_filter.setdefault(name, {})[metric] = value
        return by_filter

    def better(self, task: str, metric: str) -> Better:
        """Return which direction of a metric is better, if lm-eval knows it."""
        is_higher = (self.of("higher_is_better", task) or {}).get(metric)
        if is_higher is None:
            return Better.neither
        return Better.higher if is_higher else Better.lower


def find(folder: str) -> list[Results]:
    """Return the results below a folder, or those of the named file, newest first."""
    path = Path(folder).expanduser()
    if path.is_file():
        if not TIME.search(path.name):
            need = "not a results file of lm-eval: its name is results_TIME.json, with the samples beside it"
            raise ConfigError(need, key="--lm-eval", value=folder, code="bad_value")
        files = [path]
    elif path.is_dir():
        files = [file for file in path.rglob("*.json") if TIME.search(file.name)]
    else:
        raise ConfigError("there is no such folder", key="--lm-eval", value=folder, code="not_found")
    if not files:
        fix = f"lm-eval writes them with --output_path {folder} --log_samples"
        raise ConfigError(
            f"no results of lm-eval (results_TIME.json) in it; {fix}",
            key="--lm-eval",
            value=folder,
            code="empty",
        )
    return sorted(
        map(_read_results, files), key=lambda results: (results.time, str(results.path)), reverse=True
    )


def _read_results(path: Path) -> Results:
    content = read_json(path, "--lm-eval")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in NEEDED):
        raise DataError(
            f"not results of lm-eval: expected an object with {', '.join(NEEDED)}", key=path, code="damaged"
        )
    checked(content, ResultsFile, str(path))
    return Results(path, content)


def read_documents(results: Results, task: str, cluster: str | None = None) -> dict[str, Documents]:
    """Return a task's documents by filter; DataError with file and line if one is damaged or
    missing.

    `cluster` is the field of a document that names its family.
    """
    path, metrics = results.samples(task), results.metrics(task)
    if not path.is_file():
        raise DataError(
            f"{path.name} is not beside it: lm-eval writes it with --log_samples",
            key=results.path,
            code="not_found",
        )
    metric_names = {metric for of_filter in metrics.values() for metric in of_filter}
    by_filter: dict[str, Documents] = {name: {} for name in metrics}
    number = 0
    for number, values in lines(path):
        name = str(values.get("filter", "none"))
        document = Document(
            number,
            values["doc_id"],
            values["doc_hash"],
            str(values.get("target", "")),
            values.get("prompt_hash"),
            {metric: value for metric, value in values.items() if metric in metric_names},
            None if cluster is None else _cluster(values, cluster, f"{path}, line {number}"),
        )
        earlier = by_filter.setdefault(name, {}).setdefault(document.doc_id, document)
        if earlier is not document:
            raise DataError(
                f"document {document.doc_id} is already in line {earlier.line}",
                key=f"{path}, line {number}",
                code="damaged",
            )
    expected = (results.of("n-samples", task) or {}).get("effective")
    for name, documents in by_filter.items():
        if expected is not None and len(documents) < expected:
            counts = (
                f"{results.path.name} counts {expected} documents, and filter {name} has {len(documents)}"
            )
            raise DataError(
                f"lines are missing before or after it: {counts}",
                key=f"{path}, line {number}",
                code="damaged",
            )
    return by_filter


def _cluster(values: dict[str, Any], field: str, where: str) -> str:
    """Return the family of a document, as its field says."""
    document = values.get("doc")
    value = document.get(field) if isinstance(document, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int):
        fields = ", ".join(map(str, document)) if isinstance(document, dict) else "no fields"
        raise DataError(
            f"{where}: the document has no such text or number ({fields})",
            key="--cluster",
            value=field,
            code="missing",
        )
    return str(value)


def lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of each line of samples; DataError with file and line if a line is
    not a sample."""
    for number, values in read_json_lines(path):
        checked(values, Line, f"{path}, line {number}: not a sample of lm-eval")
        yield number, values


def question_and_answers(values: dict[str, Any]) -> tuple[str, str, str]:
    """Return a sample's question, the extracted answer and the whole answer, for people to read."""
    arguments_field = values.get("arguments")
    arguments = (
        [argument for argument in arguments_field.values() if isinstance(argument, dict)]
        if isinstance(arguments_field, dict)
        else []
    )
    question = str(arguments[0].get("arg_0", "")) if arguments else ""
    answers, filtered = (_flat(values.get(key)) for key in ("resps", "filtered_resps"))
    choices = [str(argument.get("arg_1", "")) for argument in arguments]
    # multiple choice: each has its log-likelihood
    if len(choices) > 1 and len(choices) == len(filtered):
        nats = [_number(response) for response in filtered]
        best = max(range(len(nats)), key=nats.__getitem__)
        return question, f"{best} ({choices[best].strip()})", "\n".join(map(_scored, nats, choices))
    return question, _text(filtered[0]) if filtered else "", _text(answers[0]) if answers else ""


def _flat(value: Any) -> list[Any]:
    """Return the first answer to each request: `[["text"]]` and `[[["-1.5", "True"]]]`."""
    items = value if isinstance(value, list) else []
    return [
        item[0] if isinstance(item, list) and item and isinstance(item[0], list) else item for item in items
    ]


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

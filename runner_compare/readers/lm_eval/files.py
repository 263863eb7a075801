"""Read the files of lm-evaluation-harness (`--output_path FOLDER --log_samples`) without
importing it.

A results file (`results_TIME.json`) has the model and the settings. Next to it is a file of
samples per task (`samples_TASK_TIME.jsonl`), with a line per document and filter: the
question, the answer, and the value of each metric. The lines have no checksums; the counts
in the results file show whether lines are missing.
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
from runner_base.texts import iter_json_lines, read_json
from runner_compare.metrics import BetterDirection
from runner_compare.model.data import Question
from runner_compare.readers.files import validate_file_name
from runner_compare.readers.json_schemas import Count, convert_checked

# how the name of a results file ends
TIME = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")
NEEDED = ("results", "configs", "config")


class TaskConfig(msgspec.Struct):
    output_type: str | None = None
    metric_list: list[Any] | None = None


class Samples(msgspec.Struct):
    effective: Count | None = None


class ResultsFile(msgspec.Struct, rename={"n_shot": "n-shot", "n_samples": "n-samples"}):
    results: dict[str, dict[str, Any]]
    configs: dict[str, TaskConfig]
    config: dict[str, Any]
    group_subtasks: dict[str, list[str]] | None = None
    n_shot: dict[str, Any] | None = None
    n_samples: dict[str, Samples] | None = None
    higher_is_better: dict[str, dict[str, bool | None] | None] | None = None
    versions: dict[str, Any] | None = None


class Line(msgspec.Struct):
    doc_id: int
    doc_hash: str
    prompt_hash: str | None = None


class Document(NamedTuple):
    """One document of an lm-eval samples file."""

    line: int
    doc_id: int
    doc_hash: str
    target: str
    prompt_hash: str | None
    values: dict[str, Any]  # by metric
    cluster: str | None = None  # the family of documents that it belongs to

    @property
    def pairing_key(self) -> Question:
        """Key that identifies the same document in another run."""
        return self.doc_id, self.doc_hash, self.target


Documents = dict[int, Document]  # by doc_id, in the file's order


@dataclass
class Results:
    """One lm-eval results file."""

    path: Path
    content: dict[str, Any]

    @property
    def time(self) -> str:
        """Time at which the results file was written, from its name."""
        match = TIME.search(self.path.name)
        return match[1] if match else ""

    @property
    def tasks(self) -> list[str]:
        """Names of the evaluated tasks, without task groups."""
        return list(self.content["configs"])

    def find_task_entry_in_results(self, key: str, task: str) -> Any:
        """Return a task's entry in one top-level object of the results file, or None."""
        table = self.content.get(key)
        return table.get(task) if isinstance(table, dict) else None

    def samples_path(self, task: str) -> Path:
        return self.path.with_name(validate_file_name(f"samples_{task}_{self.time}.jsonl", self.path))

    def get_metrics_by_filter(self, task: str) -> dict[str, dict[str, float]]:
        by_filter: dict[str, dict[str, float]] = {}
        for key, value in (self.find_task_entry_in_results("results", task) or {}).items():
            metric, comma, name = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                by_filter.setdefault(name, {})[metric] = value
        return by_filter

    def get_metric_direction(self, task: str, metric: str) -> BetterDirection:
        """Return whether higher or lower values of a metric are better, if lm-eval records this."""
        is_higher = (self.find_task_entry_in_results("higher_is_better", task) or {}).get(metric)
        if is_higher is None:
            return BetterDirection.neither
        return BetterDirection.higher if is_higher else BetterDirection.lower


def find_lm_eval_results(path_argument: str) -> list[Results]:
    """Return the lm-eval results in a folder or file, newest first."""
    path = Path(path_argument).expanduser()
    if path.is_file():
        if not TIME.search(path.name):
            need = "this is not an lm-eval results file, which is named results_TIME.json"
            raise ConfigError(need, key="--lm-eval", value=path_argument, code="bad_value")
        files = [path]
    elif path.is_dir():
        files = [file for file in path.rglob("*.json") if TIME.search(file.name)]
    else:
        raise ConfigError("there is no such folder", key="--lm-eval", value=path_argument, code="not_found")
    if not files:
        fix = f"Run lm-eval with --output_path {path_argument} --log_samples"
        raise ConfigError(
            f"the folder contains no lm-eval results (results_TIME.json). {fix}",
            key="--lm-eval",
            value=path_argument,
            code="empty",
        )
    return sorted(
        map(_read_results, files), key=lambda results: (results.time, str(results.path)), reverse=True
    )


def _read_results(path: Path) -> Results:
    content = read_json(path, "--lm-eval")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in NEEDED):
        raise DataError(
            f"no lm-eval results file: expected an object with {', '.join(NEEDED)}", key=path, code="damaged"
        )
    convert_checked(content, ResultsFile, str(path))
    return Results(path, content)


def read_documents(results: Results, task: str, cluster_field: str | None = None) -> dict[str, Documents]:
    """Return a task's documents by filter name.

    `cluster_field` is the document field that names its cluster. Raises DataError, with file
    and line, if a document is damaged or missing.
    """
    path, metrics = results.samples_path(task), results.get_metrics_by_filter(task)
    if not path.is_file():
        raise DataError(
            f"{path.name} is missing in the same folder. Run lm-eval with --log_samples",
            key=results.path,
            code="not_found",
        )
    metric_names = {metric for of_filter in metrics.values() for metric in of_filter}
    by_filter: dict[str, Documents] = {name: {} for name in metrics}
    number = 0
    for number, values in iter_sample_lines(path):
        name = str(values.get("filter", "none"))
        document = Document(
            number,
            values["doc_id"],
            values["doc_hash"],
            str(values.get("target", "")),
            values.get("prompt_hash"),
            {metric: value for metric, value in values.items() if metric in metric_names},
            None
            if cluster_field is None
            else _read_document_cluster(values, cluster_field, f"{path}, line {number}"),
        )
        earlier = by_filter.setdefault(name, {}).setdefault(document.doc_id, document)
        if earlier is not document:
            raise DataError(
                f"document {document.doc_id} is already in line {earlier.line}",
                key=f"{path}, line {number}",
                code="damaged",
            )
    expected = (results.find_task_entry_in_results("n-samples", task) or {}).get("effective")
    for name, documents in by_filter.items():
        if expected is not None and len(documents) < expected:
            counts = (
                f"{results.path.name} records {expected} documents, but filter {name} has {len(documents)}"
            )
            raise DataError(
                f"lines are missing before or after this line: {counts}",
                key=f"{path}, line {number}",
                code="damaged",
            )
    return by_filter


def _read_document_cluster(values: dict[str, Any], field: str, source: str) -> str:
    """Return a document's cluster from one of its fields. Raises DataError if the field is missing."""
    document = values.get("doc")
    value = document.get(field) if isinstance(document, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int):
        fields = ", ".join(map(str, document)) if isinstance(document, dict) else "no fields"
        raise DataError(
            f"{source}: the document has no field of this name with a text or number ({fields})",
            key="--cluster",
            value=field,
            code="missing",
        )
    return str(value)


def iter_sample_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and content of each line of a samples file.

    Raises DataError, with file and line, for a malformed line.
    """
    for number, values in iter_json_lines(path):
        convert_checked(values, Line, f"{path}, line {number}: this line is not an lm-eval sample")
        yield number, values


def format_question_and_answers(values: dict[str, Any]) -> tuple[str, str, str]:
    arguments_field = values.get("arguments")
    arguments = (
        [argument for argument in arguments_field.values() if isinstance(argument, dict)]
        if isinstance(arguments_field, dict)
        else []
    )
    question = str(arguments[0].get("arg_0", "")) if arguments else ""
    answers, filtered = (_get_first_answers(values.get(key)) for key in ("resps", "filtered_resps"))
    choices = [str(argument.get("arg_1", "")) for argument in arguments]
    # multiple choice: each has its log-likelihood
    if len(choices) > 1 and len(choices) == len(filtered):
        nats = [_log_likelihood(response) for response in filtered]
        best = max(range(len(nats)), key=nats.__getitem__)
        return question, f"{best} ({choices[best].strip()})", "\n".join(map(_format_choice, nats, choices))
    return question, _to_text(filtered[0]) if filtered else "", _to_text(answers[0]) if answers else ""


def _get_first_answers(value: Any) -> list[Any]:
    """Return the first answer to each request.

    lm-eval writes them as `[["text"]]` or `[[["-1.5", "True"]]]`.
    """
    items = value if isinstance(value, list) else []
    return [
        item[0] if isinstance(item, list) and item and isinstance(item[0], list) else item for item in items
    ]


def _log_likelihood(answer: Any) -> float:
    try:
        return float(answer[0])
    except (TypeError, ValueError, IndexError):
        return float("-inf")


def _format_choice(nats: float, choice: str) -> str:
    return f"{nats:9.3f} {choice.strip()}"


def _to_text(answer: Any) -> str:
    if isinstance(answer, list) and len(answer) == 1:
        return _to_text(answer[0])
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)

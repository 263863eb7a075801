"""Reads what olmo-eval writes: `metrics.json`, and beside it `predictions/MODEL/TASK[_HASH]-predictions.jsonl`.

Each metric and scorer of a task is an evaluation: of verdicts if it is 0 or 1 for every instance, else of numbers.
Instances are known by their `native_id` and label; their questions stand in a file of requests, which is not read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from runner.compare.other_tools.files import field_of, lines_of, parse
from runner.compare.other_tools.shapes import Outline
from runner.compare.other_tools.tool_run import (
    LONGEST_TEXT,
    METRIC,
    ToolFile,
    ToolRun,
    ToolSample,
    as_number,
    check_mean,
    check_samples_differ,
    params_of,
)
from runner.core.errors import DataError
from runner.core.metrics import Better

TOOL = "olmo-eval"
ENDING = "-predictions.jsonl"
MEANS = ("accuracy", "f1", "recall")  # metrics that are the mean of the instances' numbers
OF_MODEL = ("dtype", "revision", "attention_backend", "tokenizer")


def recognises(_path: Path, outline: Outline) -> bool:
    """Whether a file is olmo-eval's metrics.json."""
    return outline.has("timestamp", "config", "tasks", "summary") and bytes(outline.parts["tasks"]).startswith(b"[")


def read(path: Path, raw: bytes, _cluster: str | None = None) -> ToolFile:
    """Return the evaluations of a file, one for each task, metric and scorer."""
    content = parse(raw, str(path))
    where = str(path)
    if content.get("errors"):
        raise DataError(f"{where}: {len(content['errors'])} of its tasks ended in an error: run them again")
    config = field_of(content, "config", dict, where)
    runs, left_out = [], []
    for entry in field_of(content, "tasks", list, where):
        task = field_of(entry, "task", str, where)
        name = entry.get("model")  # of a file with several models
        about = config["models"][name] if isinstance(name, str) and name in config.get("models", {}) else config
        provider = about.get("provider")
        model = provider if isinstance(provider, dict) else about  # a harness has a provider
        rows = list(_predictions(path, entry, name if isinstance(name, str) else field_of(model, "model", str, where)))
        names = dict.fromkeys(name for _, row in rows for name in _scores(row))
        for metric in names:
            samples = [_sample(place, row, metric) for place, row in rows]
            if any(one.number is None for one in samples):
                left_out.append(f"{task} {metric}")
                continue
            check_samples_differ(path, samples)
            _check_means(f"{where}: {task}", entry, metric, names, [one.number or 0.0 for one in samples])
            params = {
                "model.name": field_of(model, "model", str, where),
                **params_of("model_args", {key: model.get(key) for key in OF_MODEL}),
                "task.name": task,
                METRIC: metric,
            }
            is_verdict = all(one.number in (0, 1) for one in samples)
            runs.append(
                ToolRun(
                    TOOL, path, task, field_of(content, "timestamp", str, where), params,
                    str(entry.get("task_hash") or ""), samples=samples,
                    better=None if is_verdict else Better.neither,
                )
            )  # fmt: skip
    return ToolFile(runs, left_out)


def _predictions(path: Path, entry: dict[str, Any], model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the predictions of a task, each with its place for messages."""
    where, task = str(path), _file_name(entry["task"])
    task_hash = str(entry.get("task_hash") or "")
    folder = path.parent / "predictions"
    names = [f"{task}_{task_hash[-6:]}{ENDING}", f"{task}{ENDING}"]
    found = [file for name in names for file in sorted(folder.glob(f"*/{_escaped(name)}"))]
    chosen = [file for file in found if file.parent.name == _file_name(model)] or found
    if len(chosen) != 1:
        state = "are not there" if not chosen else f"are there for {len(chosen)} models"
        raise DataError(f"{where}: the predictions of {entry['task']}, {folder}/MODEL/{names[0]}, {state}")
    yield from lines_of(chosen[0], "predictions", field_of(entry, "num_instances", int, where), where)


def _file_name(name: str) -> str:
    """Return a name as olmo-eval writes it in the names of files."""
    for character in ":/\\ ":
        name = name.replace(character, "_")
    return name


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def _scores(row: Any) -> dict[str, Any]:
    """Return the scores of an instance by `metric:scorer`."""
    metrics = row.get("instance_metrics") if isinstance(row, dict) else None
    pairs = metrics.items() if isinstance(metrics, dict) else ()
    return {f"{metric}:{scorer}": value for metric, of in pairs if isinstance(of, dict) for scorer, value in of.items()}


def _check_means(where: str, entry: dict[str, Any], metric: str, names: Collection[str], numbers: list[float]) -> None:
    """Raise DataError if a mean of metrics.json is not that of the instances.

    Instances have the number of `accuracy:exact_match` under this name, or in older files as `exact_match:exact_match`.
    """
    name, _, scorer = metric.partition(":")
    figures = [name] if name in MEANS else []
    if name == scorer and all(0 <= number <= 1 for number in numbers):  # a log-likelihood is none of these means
        figures += [mean for mean in MEANS if f"{mean}:{scorer}" not in names]
    logged = entry.get("metrics")
    for figure in figures:
        of_scorer = logged.get(figure) if isinstance(logged, dict) else None
        if isinstance(of_scorer, dict) and scorer in of_scorer:
            mean = math.fsum(numbers) / len(numbers)
            check_mean(f"{where} {figure}:{scorer}", mean, "instances", "this file", of_scorer[scorer])


def _sample(place: str, row: dict[str, Any], metric: str) -> ToolSample:
    number = as_number(_scores(row).get(metric))
    outputs = [one for one in row.get("model_output") or () if isinstance(one, dict)]
    first = outputs[0] if outputs else {}
    answer, text = first.get("extracted_answer"), first.get("text")
    native_id = str(field_of(row, "native_id", (str, int), place))
    return ToolSample(
        native_id,
        native_id,
        str(row.get("label")),
        number == 1,
        answer if isinstance(answer, str) else None,
        text[-LONGEST_TEXT:] if isinstance(text, str) else "",
        number=number,
    )

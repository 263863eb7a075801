"""Reader of olmo-eval's `metrics.json` and `predictions/MODEL/TASK[_HASH]-predictions.jsonl`.

Each metric and scorer of a task is an evaluation: of verdicts if it is 0 or 1 for every
instance, else of numbers. Instances are identified by their `native_id` and label; the file
of requests with their questions is not read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from runner_base import DataError, format_count
from runner_compare.readers import (
    LONGEST_TEXT,
    METRIC,
    BetterDirection,
    Count,
    JsonOutline,
    Parser,
    ToolFile,
    ToolRun,
    ToolSample,
    check_reported_mean,
    convert_checked,
    flatten_params,
    iter_lines_checking_count,
    require_unique_sample_ids,
    to_finite_number,
    validate_file_name,
)

TOOL = "olmo-eval"
ENDING = "-predictions.jsonl"
MEANS = ("accuracy", "f1", "recall")  # metrics that are the mean of the instances' numbers
OF_MODEL = ("dtype", "revision", "attention_backend", "tokenizer")


class Model(msgspec.Struct):
    model: str | None = None
    dtype: Any = None
    revision: Any = None
    attention_backend: Any = None
    tokenizer: Any = None


class Config(Model):
    """Model settings in metrics.json, which may describe one model, a provider or several models."""

    provider: Any = None
    models: dict[str, dict[str, Any]] | None = None


class Task(msgspec.Struct):
    task: str
    num_instances: Count
    task_hash: str | None = None
    model: str | None = None  # of a file with several models
    metrics: dict[str, Any] | None = None


class Metrics(msgspec.Struct):
    timestamp: str
    config: dict[str, Any]
    tasks: list[Task]
    errors: list[Any] | None = None


class Output(msgspec.Struct):
    text: Any = None
    extracted_answer: Any = None


class Prediction(msgspec.Struct):
    native_id: str | int
    instance_metrics: dict[str, Any]
    label: Any = None
    model_output: list[Output] | None = None


METRICS: Parser[Metrics] = Parser(Metrics)
PREDICTION: Parser[Prediction] = Parser(Prediction)


def can_read_file(_path: Path, outline: JsonOutline) -> bool:
    """Whether a file is olmo-eval's metrics.json."""
    return outline.has_fields("timestamp", "config", "tasks", "summary") and bytes(
        outline.parts["tasks"]
    ).startswith(b"[")


def read_tool_file(path: Path, file_content: bytes, _cluster_field: str | None = None) -> ToolFile:
    where = str(path)
    content = METRICS.parse(file_content, where)
    if content.errors:
        raise DataError(
            f"{format_count(len(content.errors), 'task')} failed with an error. Run the failed tasks again",
            key=where,
            code="damaged",
        )
    runs, left_out = [], []
    for entry in content.tasks:
        model = _find_model_settings(content.config, entry, where)
        rows = list(_iter_predictions(path, entry, entry.model or model.model or ""))
        names = dict.fromkeys(name for _, scores in rows for name in scores)
        for metric in names:
            numbers = [to_finite_number(scores.get(metric)) for _, scores in rows]
            known = [number for number in numbers if number is not None]
            if len(known) < len(rows):
                left_out.append(f"{entry.task} {metric}")
                continue
            samples = [
                replace(sample, number=number, solved=number == 1)
                for (sample, _), number in zip(rows, known, strict=True)
            ]
            require_unique_sample_ids(path, samples)
            _check_means(f"{where}: {entry.task}", entry, metric, names, known)
            params = {
                "model.name": model.model or "",
                **flatten_params("model_args", {key: getattr(model, key) for key in OF_MODEL}),
                "task.name": entry.task,
                METRIC: metric,
            }
            better = None if all(number in (0, 1) for number in known) else BetterDirection.neither
            version = entry.task_hash or ""
            time = content.timestamp
            runs.append(
                ToolRun(TOOL, path, entry.task, time, params, version, samples=samples, better=better)
            )
    return ToolFile(runs, left_out)


def _find_model_settings(config: dict[str, Any], entry: Task, source: str) -> Model:
    about: Config = convert_checked(config, Config, f"{source}: config")
    if entry.model is not None and about.models and entry.model in about.models:
        about = convert_checked(about.models[entry.model], Config, f"{source}: config of {entry.model}")
    model: Model = about
    if isinstance(about.provider, dict):  # a harness has one
        model = convert_checked(about.provider, Model, f"{source}: config.provider")
    if model.model is None:
        raise DataError("config: model is missing", key=source, code="damaged")
    return model


def _iter_predictions(path: Path, entry: Task, model: str) -> Iterator[tuple[ToolSample, dict[str, Any]]]:
    """Yield each prediction of a task as a sample, with its scores by `metric:scorer`."""
    where, task = str(path), _convert_to_olmo_file_name(entry.task)
    folder = path.parent / "predictions"
    endings = f"_{(entry.task_hash or '')[-6:]}{ENDING}", ENDING
    names = [validate_file_name(f"{task}{ending}", path) for ending in endings]
    found = [file for name in names for file in sorted(folder.glob(f"*/{_escape_glob(name)}"))]
    chosen = [file for file in found if file.parent.name == _convert_to_olmo_file_name(model)] or found
    if len(chosen) != 1:
        state = "are not there" if not chosen else f"are there for {len(chosen)} models"
        raise DataError(
            f"the predictions of {entry.task}, {folder}/MODEL/{names[0]}, {state}",
            key=where,
            code="ambiguous" if chosen else "not_found",
        )
    for where_line, line in iter_lines_checking_count(chosen[0], "predictions", entry.num_instances, where):
        prediction = PREDICTION.parse(line, where_line)
        yield _create_sample(prediction), _read_scores(prediction)


def _convert_to_olmo_file_name(name: str) -> str:
    """Convert a name to the form that olmo-eval uses in file names."""
    for character in ":/\\ ":
        name = name.replace(character, "_")
    return name


def _escape_glob(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def _read_scores(prediction: Prediction) -> dict[str, Any]:
    scorers = ((metric, of) for metric, of in prediction.instance_metrics.items() if isinstance(of, dict))
    return {f"{metric}:{scorer}": value for metric, of in scorers for scorer, value in of.items()}


def _check_means(
    source: str, entry: Task, metric: str, metric_names: Collection[str], scores: list[float]
) -> None:
    """Raise DataError if metrics.json reports another mean than the mean of the predictions.

    Older files store `accuracy:exact_match` as `exact_match:exact_match`.
    """
    name, _, scorer = metric.partition(":")
    figures = [name] if name in MEANS else []
    # a log-likelihood is none of these means
    if name == scorer and all(0 <= number <= 1 for number in scores):
        figures += [mean for mean in MEANS if f"{mean}:{scorer}" not in metric_names]
    for figure in figures:
        of_scorer = (entry.metrics or {}).get(figure)
        if isinstance(of_scorer, dict) and scorer in of_scorer:
            mean = math.fsum(scores) / len(scores)
            check_reported_mean(
                f"{source} {figure}:{scorer}", mean, "instances", "this file", of_scorer[scorer]
            )


def _create_sample(prediction: Prediction) -> ToolSample:
    first = prediction.model_output[0] if prediction.model_output else Output()
    return ToolSample(
        str(prediction.native_id),
        str(prediction.native_id),
        str(prediction.label),
        False,
        first.extracted_answer if isinstance(first.extracted_answer, str) else None,
        first.text[-LONGEST_TEXT:] if isinstance(first.text, str) else "",
    )

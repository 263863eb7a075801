"""Reader of lighteval results written with `--output-dir FOLDER --save-details`.

A results file (`FOLDER/results/MODEL/results_TIME.json`) names model, settings and tasks.
The samples of each task are in `FOLDER/details/MODEL/TIME/details_TASK_TIME.parquet`. A
metric that is 0 or 1 for every sample is a verdict, unless 0 is better. Any other metric
that has a number for every sample is compared as that number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from runner_base import DataError
from runner_compare.readers import (
    LONGEST_TEXT,
    METRIC,
    BetterDirection,
    JsonOutline,
    Parser,
    ToolFile,
    ToolRun,
    ToolSample,
    check_reported_mean,
    convert_checked,
    flatten_params,
    get_sample_cluster,
    read_parquet,
    require_unique_sample_ids,
    to_finite_number,
    validate_file_name,
)

TOOL = "lighteval"
NAME = re.compile(r"results_(.+)\.json")
COLUMNS = {
    "doc": ("id", "query", "choices", "gold_index"),
    "metric": (),
    "model_response": ("text", "text_post_processed", "logprobs"),
}
OPTIONAL = {"doc": ("specific",)}  # what a task keeps with its documents
NOT_SETTINGS = ("model_name", "generation_parameters", "batch_size", "cache_dir", "dtype")


class ModelName(msgspec.Struct):
    model_name: str


class General(msgspec.Struct):
    model_config: dict[str, Any]
    lighteval_sha: Any = None
    max_samples: Any = None


class Metric(msgspec.Struct):
    metric_name: Any = None
    higher_is_better: Any = None
    corpus_level_fn: Any = None

    @property
    def better_direction(self) -> BetterDirection:
        """Whether higher or lower values of the metric are better. `neither` if the file does not
        define the direction.
        """
        if not isinstance(self.higher_is_better, bool):
            return BetterDirection.neither
        return BetterDirection.higher if self.higher_is_better else BetterDirection.lower


class Task(msgspec.Struct):
    metrics: list[Metric] | None = None
    num_fewshots: Any = None

    def find_metric(self, name: str) -> Metric:
        return next((metric for metric in self.metrics or () if metric.metric_name == name), Metric())


class Results(msgspec.Struct):
    config_general: General
    config_tasks: dict[str, Raw]
    results: dict[str, Any]
    versions: dict[str, Any] | None = None


class Document(msgspec.Struct):
    id: str | int
    query: str
    choices: list[Any]
    gold_index: int | list[int]
    specific: Any = None


class Answer(msgspec.Struct):
    """A model's answer: generated texts, or the log-likelihood of each choice."""

    text: list[str] | None = None
    text_post_processed: list[str | None] | None = None
    logprobs: list[Any] | None = None


class Row(msgspec.Struct):
    doc: Document
    metric: dict[str, Any]
    model_response: Answer


RESULTS: Parser[Results] = Parser(Results)
TASK: Parser[Task] = Parser(Task)


def can_read_file(_path: Path, outline: JsonOutline) -> bool:
    return outline.has_fields("config_general", "config_tasks", "results")


def read_tool_file(path: Path, file_content: bytes, cluster_field: str | None = None) -> ToolFile:
    """Return the evaluations in a lighteval results file, one per task and metric."""
    name = NAME.fullmatch(path.name)
    if name is None:
        raise DataError(
            "the file must be named results_TIME.json, because TIME identifies its samples. Rename the file",
            key=path,
            code="not_found",
        )
    content = RESULTS.parse(file_content, str(path))
    runs, left_out = [], []
    for task, settings in content.config_tasks.items():
        config = TASK.parse(settings, str(path), f"config_tasks.{task}")
        details = _find_lighteval_details_file(path, task, name[1])
        rows = list(_iter_samples(details, cluster_field))
        for metric in dict.fromkeys(key for _, metrics in rows for key in metrics):
            numbers = [_get_metric_number(details, sample, metrics, metric) for sample, metrics in rows]
            known = [number for number in numbers if number is not None]
            if len(known) < len(rows):
                left_out.append(f"{task} {metric}")
                continue
            numbered = zip((sample for sample, _ in rows), known, strict=True)
            samples = [replace(sample, number=number, solved=number == 1) for sample, number in numbered]
            require_unique_sample_ids(details, samples)
            run = _create_run(path, name[1], content, task, config, metric, samples)
            about = config.find_metric(metric)
            is_verdict = about.better_direction is not BetterDirection.lower and all(
                number in (0, 1) for number in known
            )
            run.better = None if is_verdict else about.better_direction
            if is_verdict or about.corpus_level_fn == "mean":
                results = content.results.get(task)
                logged = results.get(metric) if isinstance(results, dict) else None
                mean = math.fsum(known) / len(known)
                check_reported_mean(f"{path}: {metric} of {task}", mean, "samples", "this file", logged)
            runs.append(run)
    return ToolFile(runs, left_out)


def _iter_samples(details: Path, cluster_field: str | None) -> Iterator[tuple[ToolSample, dict[str, Any]]]:
    """Yield the samples of a task, each with its metrics. The samples have no scores yet."""
    for number, values in enumerate(read_parquet(details, COLUMNS, OPTIONAL), 1):
        row: Row = convert_checked(values, Row, f"{details}, row {number}")
        yield _create_sample(row, cluster_field), row.metric


def _find_lighteval_details_file(path: Path, task: str, time: str) -> Path:
    name = validate_file_name(f"details_{task}_{time}.parquet", path)
    folders = [path.parent]
    for above in path.parents:
        if above.name == "results":
            folders.append(above.parent / "details" / path.parent.relative_to(above) / time)
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    where = " or ".join(map(str, folders))
    raise DataError(
        f"{name} is missing in {where}. Run lighteval with --save-details", key=path, code="not_found"
    )


def _get_metric_number(path: Path, sample: ToolSample, metrics: dict[str, Any], metric: str) -> float | None:
    """Return a sample's metric as a number. None if the metric has no value per sample."""
    value = metrics.get(metric)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise DataError(
            f"{metric} of sample {sample.sample_id} has no value ({value})", key=path, code="damaged"
        )
    return to_finite_number(value)


def _create_sample(row: Row, cluster_field: str | None) -> ToolSample:
    document, answer, choices = row.doc, row.model_response, row.doc.choices
    indices = [document.gold_index] if isinstance(document.gold_index, int) else document.gold_index
    family, fields = get_sample_cluster(document.specific, cluster_field)
    return ToolSample(
        str(document.id),
        document.query,
        "\n".join(str(choices[at]) for at in indices if 0 <= at < len(choices)),
        False,
        None if answer.text else _likeliest_choice(answer, choices),
        "\n".join(_iter_answer_texts(answer, choices))[-LONGEST_TEXT:],
        cluster=family,
        fields=fields,
    )


def _iter_answer_texts(answer: Answer, choices: list[Any]) -> Iterator[str]:
    """Yield the first generated text. If there is none, yield the log-likelihood of each choice."""
    texts = answer.text_post_processed or answer.text or []
    if texts:
        yield str(texts[0])
    else:
        yield from (f"{nats:9.3f} {choice}" for nats, choice in _score_choices(answer, choices))


def _likeliest_choice(answer: Answer, choices: list[Any]) -> str | None:
    return max(_score_choices(answer, choices), default=(0.0, None))[1]


def _score_choices(answer: Answer, choices: list[Any]) -> list[tuple[float, str]]:
    pairs = zip(answer.logprobs or (), choices, strict=False)
    return [(nats, str(choice)) for nats, choice in pairs if isinstance(nats, float)]


def _create_run(
    path: Path, time: str, content: Results, task: str, config: Task, metric: str, samples: list[ToolSample]
) -> ToolRun:
    general = content.config_general
    model = general.model_config
    rest = {key: value for key, value in model.items() if key not in NOT_SETTINGS and value != {}}
    return ToolRun(
        tool=TOOL,
        path=path,
        task=task,
        time=time,
        params={
            "model.name": convert_checked(
                model, ModelName, f"{path}: config_general.model_config"
            ).model_name,
            **flatten_params("model", {"dtype": model.get("dtype")}),
            **flatten_params("model_args", rest),
            **flatten_params("generation", model.get("generation_parameters")),
            "task.name": task,
            **flatten_params("task", {"shots": config.num_fewshots, "limit": general.max_samples}),
            METRIC: metric,
        },
        task_version=str((content.versions or {}).get(task, "")),
        samples=samples,
        facts={"lighteval_version": str(general.lighteval_sha)},
    )

"""Reader of inspect_ai logs: `.eval` archives, and logs in one `.json` file.

Each score of a log is an evaluation. It has verdicts if every sample is correct or
incorrect: `C` and `I`, `N` (no answer, which is wrong), or 1 and 0. With several epochs,
the fraction of correct ones counts, as in inspect_ai's own table. Any other score is a
number: `P` (partially correct) is one half, as in inspect_ai, and the mean over epochs
counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from runner_base import DataError, join_first_names
from runner_compare.model.repeated_answers import AnswerVotes
from runner_compare.readers import (
    METRIC,
    NULL,
    BetterDirection,
    Count,
    JsonOutline,
    Parser,
    ToolFile,
    ToolRun,
    ToolSample,
    check_reported_mean,
    count_votes,
    flatten_params,
)
from runner_compare.readers.archive import Archive
from runner_compare.readers.inspect_samples import SUFFIX, Epoch, LogSamples

TOOL = "inspect_ai"
MEANS = ("accuracy", "mean")  # figures of a header that are the mean of the samples' numbers
MEAN = "mean"  # inspect_ai's usual way to reduce epochs


class LoggedFigure(msgspec.Struct):
    value: Any = None
    params: dict[str, Any] | None = None


class LoggedScores(msgspec.Struct):
    """Summary of one score in a log's header."""

    name: str | None = None
    scorer: str | None = None
    reducer: str | None = None
    metrics: dict[str, LoggedFigure] = {}


class Results(msgspec.Struct):
    """Summary of all samples in a log's header."""

    total_samples: Count
    scores: list[LoggedScores] | None = None


class DataSet(msgspec.Struct):
    sample_ids: list[Any] | None = None


class Config(msgspec.Struct):
    limit: Any = None
    epochs: Any = None
    epochs_reducer: list[str] | None = None


class Evaluation(msgspec.Struct):
    task: str
    model: str
    created: str
    task_version: Any = ""
    dataset: DataSet | None = None
    config: Config | None = None
    model_args: dict[str, Any] | None = None
    model_generate_config: dict[str, Any] | None = None
    task_args: dict[str, Any] | None = None
    packages: dict[str, Any] | None = None


class Step(msgspec.Struct):
    solver: str | None = None


class Plan(msgspec.Struct):
    steps: list[Step] | None = None
    config: dict[str, Any] | None = None


class Failure(msgspec.Struct):
    message: Any = None


class Header(msgspec.Struct):
    """Header of an inspect_ai log: everything except the samples."""

    status: str
    eval: Evaluation
    error: Failure | None = None
    invalidated: bool | None = None
    results: Results | None = None
    plan: Plan | None = None
    samples: msgspec.Raw = NULL  # of a log that is one JSON file


HEADER: Parser[Header] = Parser(Header)


def can_read_file(path: Path, outline: JsonOutline) -> bool:
    """Return whether a file is an inspect_ai log, judged by its suffix or its top-level JSON fields.

    Without JSON content, the outline is empty.
    """
    return path.suffix == SUFFIX or outline.has_fields("eval", "status", "version")


def read_tool_file(path: Path, file_content: bytes, cluster_field: str | None = None) -> ToolFile:
    """Return the evaluations in an inspect_ai log, one per score."""
    samples = LogSamples(path, cluster_field)
    if path.suffix == SUFFIX:
        with Archive(path) as archive:
            header = _read_inspect_log_header(path, archive.read_member("header.json"))
            epochs = list(samples.iter_archive_epochs(archive))
    else:
        header = _read_inspect_log_header(path, file_content)
        epochs = list(samples.iter_json_epochs(header.samples))
    _check_all_samples_present(path, header, epochs)
    runs, left_out, notes = [], [], list[str]()
    for name in dict.fromkeys(name for epoch in epochs for name in epoch.scores):
        if all(_score_number(epoch, name) is not None for epoch in epochs):
            runs.append(_create_run(path, header, name, epochs, samples))
            notes += _create_epoch_reducer_notes(path, header, name)
        else:
            left_out.append(f"{header.eval.task} {name}")
    return ToolFile(runs, left_out, notes)


def _read_inspect_log_header(path: Path, file_content: bytes) -> Header:
    """Return the header of a log. Raises DataError if the evaluation has not finished."""
    header = HEADER.parse(file_content, str(path))
    if header.status != "success":
        message = f" ({str(header.error.message)[:120]})" if header.error and header.error.message else ""
        fix = "Finish the evaluation with `inspect eval-retry`, or omit the log"
        raise DataError(
            f"the evaluation is not finished (status {header.status[:40]}{message}). {fix}",
            key=path,
            code="damaged",
        )
    if header.invalidated:
        raise DataError("the evaluation was invalidated. Omit this log", key=path, code="refused")
    return header


def _check_all_samples_present(path: Path, header: Header, epochs: list[Epoch]) -> None:
    if header.results is None:
        raise DataError("results.total_samples is missing", key=path, code="damaged")
    expected = header.results.total_samples
    if expected != len(epochs):
        raise DataError(
            f"the header records {expected} samples, but the log has {len(epochs)}. The log was changed",
            key=path,
            code="mismatch",
        )
    seen = set[tuple[str, int]]()
    for epoch in epochs:
        if (epoch.sample_id, epoch.number) in seen:
            raise DataError(
                f"sample {epoch.sample_id}, epoch {epoch.number} is duplicated", key=path, code="damaged"
            )
        seen.add((epoch.sample_id, epoch.number))


def _score_number(epoch: Epoch, name: str) -> float | None:
    """Return a sample's score as a number.

    A missing score counts as 0. A score that is not a number gives None.
    """
    return epoch.scores[name].number if name in epoch.scores else 0.0


def _choose_score_direction(header: Header, name: str, epochs: list[Epoch]) -> BetterDirection | None:
    """Return whether higher or lower values of a score are better. None if all samples have verdicts.

    Higher is better for grades, and where the log aggregates the score as an accuracy; other
    scores have no known direction.
    """
    if all(_score_number(epoch, name) in (0, 1) for epoch in epochs):
        return None
    has_accuracy = any("accuracy" in metrics for metrics in _iter_header_metrics(header, name))
    are_grades = all(epoch.scores[name].is_grade for epoch in epochs if name in epoch.scores)
    return BetterDirection.higher if has_accuracy or are_grades else BetterDirection.neither


def _create_run(
    path: Path, header: Header, name: str, epochs: list[Epoch], log_samples: LogSamples
) -> ToolRun:
    by_sample: dict[str, list[Epoch]] = {}
    for epoch in epochs:
        by_sample.setdefault(epoch.sample_id, []).append(epoch)
    # in whose order they are shown: an archive has them as they were finished
    dataset = header.eval.dataset
    order = {str(sample_id): at for at, sample_id in enumerate((dataset and dataset.sample_ids) or ())}
    in_order = sorted(by_sample, key=lambda sample_id: order.get(sample_id, len(order)))
    better = _choose_score_direction(header, name, epochs)
    samples = [_create_sample(name, by_sample[sample_id]) for sample_id in in_order]
    for sample in samples:
        if sample.has_error and better is BetterDirection.neither:
            sample.number = None  # 0 is not the worst of such numbers
    _check_means(path, header, name, samples)
    return ToolRun(
        tool=TOOL,
        path=path,
        task=header.eval.task,
        time=header.eval.created,
        params=_read_inspect_log_settings(header) | {METRIC: name},
        task_version=str(header.eval.task_version),
        samples=samples,
        facts={f"{key}_version": str(value) for key, value in (header.eval.packages or {}).items()},
        better=better,
        texts=lambda sample_ids: log_samples.read_texts(name, sample_ids),
    )


def _create_sample(name: str, epochs: list[Epoch]) -> ToolSample:
    first, numbers = epochs[0], [_score_number(epoch, name) or 0.0 for epoch in epochs]
    solved = numbers.count(1.0)
    return ToolSample(
        first.sample_id,
        first.question,
        first.gold,
        2 * solved > len(epochs),
        has_error=any(epoch.has_error or name not in epoch.scores for epoch in epochs),
        right=(solved, len(epochs)) if len(epochs) > 1 else (0, 0),
        votes=_count_votes(name, epochs) if len(epochs) > 1 else None,
        number=math.fsum(numbers) / len(numbers),
        cluster=first.family,
        fields=first.fields,
    )


def _count_votes(name: str, epochs: list[Epoch]) -> AnswerVotes | None:
    scores = [epoch.scores.get(name) for epoch in epochs]
    return count_votes(
        (None, False, "") if score is None else (score.answer, score.number == 1, "") for score in scores
    )


def _create_epoch_reducer_notes(path: Path, header: Header, name: str) -> list[str]:
    """Return a note if inspect_ai aggregated the epochs of a score in another way than by the mean."""
    reducers = (header.eval.config and header.eval.config.epochs_reducer) or [MEAN]
    if MEAN in reducers:
        return []
    ways = join_first_names([reducer[:40] for reducer in reducers], 3)
    return [f"{path}: inspect_ai aggregates the epochs of {name} by {ways}. The comparison uses the mean"]


def _iter_header_metrics(header: Header, name: str) -> Iterator[dict[str, LoggedFigure]]:
    """Yield the metrics that the header reports for a score, if the score's epochs were averaged."""
    for score in (header.results and header.results.scores) or ():
        if name in (score.name, f"{score.scorer}.{score.name}") and score.reducer in (None, MEAN):
            yield score.metrics


def _check_means(path: Path, header: Header, name: str, samples: list[ToolSample]) -> None:
    """Raise DataError if an accuracy or mean in the header differs from the samples."""
    reducer = header.eval.config and header.eval.config.epochs_reducer
    has_several = any(sample.right[1] > 1 for sample in samples)
    if any(sample.has_error or sample.number is None for sample in samples) or (
        has_several and reducer not in (None, [MEAN])
    ):
        return
    mean = math.fsum(sample.number or 0.0 for sample in samples) / len(samples)
    for metrics in _iter_header_metrics(header, name):
        for key in MEANS:
            figure = metrics.get(key) or LoggedFigure()
            if isinstance(figure.value, int | float) and not figure.params:
                check_reported_mean(
                    f"{path}: the {key} by {name}", mean, "samples", "its header", figure.value
                )


def _read_inspect_log_settings(header: Header) -> dict[str, str]:
    spec, plan, config = header.eval, header.plan or Plan(), header.eval.config or Config()
    steps = [str(step.solver) for step in plan.steps or ()]
    return {
        "model.name": spec.model,
        **flatten_params("model_args", spec.model_args),
        **flatten_params("generation", plan.config),
        **flatten_params("generation", spec.model_generate_config),
        "task.name": spec.task,
        **flatten_params("task", {"limit": config.limit, "epochs": config.epochs}),
        **flatten_params("task", {"solver": " → ".join(steps) or None}),
        **flatten_params("task_args", spec.task_args),
    }

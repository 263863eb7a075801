"""Reads the logs of inspect_ai: `.eval` archives, and the same content as one `.json`.

Each score of a log is an evaluation. It has verdicts if it says right or wrong for every sample:
`C` and `I`, `N` (no answer, which is wrong), or 1 and 0. With several epochs, the share of right
ones counts, as inspect_ai's own table has it. Any other score is a number: `P` (partly right) is
one half, as in inspect_ai, and of several epochs the mean counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from runner_base import DataError, few
from runner_compare.model.answer_votes import Votes
from runner_compare.readers import (
    METRIC,
    NULL,
    Better,
    Count,
    Outline,
    Parser,
    ToolFile,
    ToolRun,
    ToolSample,
    check_mean,
    params_of,
    votes_of,
)
from runner_compare.readers.archive import Archive
from runner_compare.readers.inspect_samples import SUFFIX, Epoch, Samples

TOOL = "inspect_ai"
MEANS = ("accuracy", "mean")  # figures of a header that are the mean of the samples' numbers
MEAN = "mean"  # inspect_ai's usual way to reduce epochs


class LoggedFigure(msgspec.Struct):
    """A figure of a score over all samples."""

    value: Any = None
    params: dict[str, Any] | None = None


class LoggedScores(msgspec.Struct):
    """What a header says of a score."""

    name: str | None = None
    scorer: str | None = None
    reducer: str | None = None
    metrics: dict[str, LoggedFigure] = {}


class Results(msgspec.Struct):
    """What a header says of all samples."""

    total_samples: Count
    scores: list[LoggedScores] | None = None


class DataSet(msgspec.Struct):
    """The data set that was answered."""

    sample_ids: list[Any] | None = None


class Config(msgspec.Struct):
    """How it was answered."""

    limit: Any = None
    epochs: Any = None
    epochs_reducer: list[str] | None = None


class Evaluation(msgspec.Struct):
    """What was evaluated."""

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
    """One solver of a plan."""

    solver: str | None = None


class Plan(msgspec.Struct):
    """The solvers and their settings."""

    steps: list[Step] | None = None
    config: dict[str, Any] | None = None


class Failure(msgspec.Struct):
    """Why an evaluation ended early."""

    message: Any = None


class Header(msgspec.Struct):
    """A log without its samples."""

    status: str
    eval: Evaluation
    error: Failure | None = None
    invalidated: bool | None = None
    results: Results | None = None
    plan: Plan | None = None
    samples: msgspec.Raw = NULL  # of a log that is one JSON file


HEADER: Parser[Header] = Parser(Header)


def recognises(path: Path, outline: Outline) -> bool:
    """Whether a file is a log of inspect_ai; the outline is empty unless it is JSON."""
    return path.suffix == SUFFIX or outline.has("eval", "status", "version")


def read(path: Path, raw: bytes, cluster: str | None = None) -> ToolFile:
    """Return the evaluations of a log, one for each score."""
    samples = Samples(path, cluster)
    if path.suffix == SUFFIX:
        with Archive(path) as archive:
            header = _header(path, archive.read("header.json"))
            epochs = list(samples.of_archive(archive))
    else:
        header = _header(path, raw)
        epochs = list(samples.of_json(header.samples))
    _check_complete(path, header, epochs)
    runs, left_out, notes = [], [], list[str]()
    for name in dict.fromkeys(name for epoch in epochs for name in epoch.scores):
        if all(_number(epoch, name) is not None for epoch in epochs):
            runs.append(_run(path, header, name, epochs, samples))
            notes += _note_of_reducer(path, header, name)
        else:
            left_out.append(f"{header.eval.task} {name}")
    return ToolFile(runs, left_out, notes)


def _header(path: Path, raw: bytes) -> Header:
    """Return the header of an evaluation that has finished."""
    header = HEADER.read(raw, str(path))
    if header.status != "success":
        message = f" ({str(header.error.message)[:120]})" if header.error and header.error.message else ""
        fix = "finish it with `inspect eval-retry`, or leave it out"
        raise DataError(
            f"the evaluation has not finished: its status is {header.status[:40]}{message}; {fix}",
            key=path,
            code="damaged",
        )
    if header.invalidated:
        raise DataError("the evaluation was invalidated: leave it out", key=path, code="refused")
    return header


def _check_complete(path: Path, header: Header, epochs: list[Epoch]) -> None:
    if header.results is None:
        raise DataError("results.total_samples is missing", key=path, code="damaged")
    expected = header.results.total_samples
    if expected != len(epochs):
        raise DataError(
            f"its header counts {expected} samples, and it has {len(epochs)}: it was changed",
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


def _number(epoch: Epoch, name: str) -> float | None:
    """Return a score as a number; None if it is none. A sample without the score has nothing
    right."""
    return epoch.scores[name].number if name in epoch.scores else 0.0


def _better(header: Header, name: str, epochs: list[Epoch]) -> Better | None:
    """Return the direction of a score's numbers; None if it says right or wrong for each sample.

    More is better for grades, and where the log sums the score up as an accuracy; of other numbers
    it does not say.
    """
    if all(_number(epoch, name) in (0, 1) for epoch in epochs):
        return None
    has_accuracy = any("accuracy" in metrics for metrics in _metrics(header, name))
    are_grades = all(epoch.scores[name].is_grade for epoch in epochs if name in epoch.scores)
    return Better.higher if has_accuracy or are_grades else Better.neither


def _run(path: Path, header: Header, name: str, epochs: list[Epoch], logged: Samples) -> ToolRun:
    by_sample: dict[str, list[Epoch]] = {}
    for epoch in epochs:
        by_sample.setdefault(epoch.sample_id, []).append(epoch)
    # in whose order they are shown: an archive has them as they were finished
    dataset = header.eval.dataset
    order = {str(sample_id): at for at, sample_id in enumerate((dataset and dataset.sample_ids) or ())}
    in_order = sorted(by_sample, key=lambda sample_id: order.get(sample_id, len(order)))
    better = _better(header, name, epochs)
    samples = [_sample(name, by_sample[sample_id]) for sample_id in in_order]
    for sample in samples:
        if sample.has_error and better is Better.neither:
            sample.number = None  # 0 is not the worst of such numbers
    _check_means(path, header, name, samples)
    return ToolRun(
        tool=TOOL,
        path=path,
        task=header.eval.task,
        time=header.eval.created,
        params=_settings(header) | {METRIC: name},
        task_version=str(header.eval.task_version),
        samples=samples,
        facts={f"{key}_version": str(value) for key, value in (header.eval.packages or {}).items()},
        better=better,
        texts=lambda sample_ids: logged.texts(name, sample_ids),
    )


def _sample(name: str, epochs: list[Epoch]) -> ToolSample:
    first, numbers = epochs[0], [_number(epoch, name) or 0.0 for epoch in epochs]
    solved = numbers.count(1.0)
    return ToolSample(
        first.sample_id,
        first.question,
        first.gold,
        2 * solved > len(epochs),
        has_error=any(epoch.has_error or name not in epoch.scores for epoch in epochs),
        right=(solved, len(epochs)) if len(epochs) > 1 else (0, 0),
        votes=_votes(name, epochs) if len(epochs) > 1 else None,
        number=math.fsum(numbers) / len(numbers),
        cluster=first.family,
        fields=first.fields,
    )


def _votes(name: str, epochs: list[Epoch]) -> Votes | None:
    """Return how the answers of several epochs vote, by what the scorer has extracted from each."""
    scores = [epoch.scores.get(name) for epoch in epochs]
    return votes_of(
        (None, False, "") if score is None else (score.answer, score.number == 1, "") for score in scores
    )


def _note_of_reducer(path: Path, header: Header, name: str) -> list[str]:
    """Say by what inspect_ai's own table reduces the epochs of a score, if by no mean."""
    reducers = (header.eval.config and header.eval.config.epochs_reducer) or [MEAN]
    if MEAN in reducers:
        return []
    ways = few([reducer[:40] for reducer in reducers], 3)
    return [f"{path}: inspect_ai's own table reduces the epochs of {name} by {ways}; compared is their mean"]


def _metrics(header: Header, name: str) -> Iterator[dict[str, LoggedFigure]]:
    """Yield the figures that a log's header has of a score, without those that reduce epochs to
    something else."""
    for score in (header.results and header.results.scores) or ():
        if name in (score.name, f"{score.scorer}.{score.name}") and score.reducer in (None, MEAN):
            yield score.metrics


def _check_means(path: Path, header: Header, name: str, samples: list[ToolSample]) -> None:
    """Raise DataError if an accuracy or a mean in the header is not that of the samples."""
    reducer = header.eval.config and header.eval.config.epochs_reducer
    has_several = any(sample.right[1] > 1 for sample in samples)
    if any(sample.has_error or sample.number is None for sample in samples) or (
        has_several and reducer not in (None, [MEAN])
    ):
        return
    mean = math.fsum(sample.number or 0.0 for sample in samples) / len(samples)
    for metrics in _metrics(header, name):
        for key in MEANS:
            figure = metrics.get(key) or LoggedFigure()
            if isinstance(figure.value, int | float) and not figure.params:
                check_mean(f"{path}: the {key} by {name}", mean, "samples", "its header", figure.value)


def _settings(header: Header) -> dict[str, str]:
    """Return the settings of an evaluation by keys like ours."""
    spec, plan, config = header.eval, header.plan or Plan(), header.eval.config or Config()
    steps = [str(step.solver) for step in plan.steps or ()]
    return {
        "model.name": spec.model,
        **params_of("model_args", spec.model_args),
        **params_of("generation", plan.config),
        **params_of("generation", spec.model_generate_config),
        "task.name": spec.task,
        **params_of("task", {"limit": config.limit, "epochs": config.epochs}),
        **params_of("task", {"solver": " → ".join(steps) or None}),
        **params_of("task_args", spec.task_args),
    }

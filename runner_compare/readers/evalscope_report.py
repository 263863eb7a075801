"""Reads what evalscope writes into its `work_dir`.

A report (`reports/MODEL/DATASET.json`) names model, data set and metrics. The answers are in
`reviews/MODEL/DATASET_SUBSET.jsonl`, the settings in `configs/task_config.yaml`. A metric that is 0
or 1 for every answer is a verdict; any other one is compared as a number. With `repeats`, a sample
was answered several times.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import yaml

from runner_base import DataError, few
from runner_compare.readers import (
    LONGEST_TEXT,
    METRIC,
    MIB,
    Better,
    Count,
    Outline,
    Parser,
    ToolFile,
    ToolRun,
    ToolSample,
    as_number,
    changed,
    check_samples_differ,
    checked,
    family_of,
    file_name,
    joined,
    lines_of,
    params_of,
    read_bytes,
)

TOOL = "evalscope"
REPORTS, REVIEWS, SETTINGS = "reports", "reviews", Path("configs") / "task_config.yaml"
ROUNDED = 1e-4  # by which a score in a report may differ: it has four decimals
DIRECTIONS = {"higher_is_better": Better.higher, "lower_is_better": Better.lower}


# of YAML, in which ten aliases of ten aliases become anything
MAX_SETTINGS_BYTES, MAX_ALIASES = MIB, 20


class Subset(msgspec.Struct):
    """A part of a data set."""

    name: str
    num: Count
    is_aggregate: Any = None


class Category(msgspec.Struct):
    """Subsets that belong together."""

    subsets: list[Subset]


class Identity(msgspec.Struct):
    """Which metric it is."""

    name: str | None = None
    aggregation: str | None = None


class Semantics(msgspec.Struct):
    """What its numbers mean."""

    direction: str | None = None


class Metric(msgspec.Struct):
    """What a report says of a metric."""

    categories: list[Category]
    score: float | None = None
    identity: Identity | None = None
    semantics: Semantics | None = None

    @property
    def name(self) -> str | None:
        """Its name in the answers."""
        return self.identity.name if self.identity else None

    @property
    def better(self) -> Better:
        direction = self.semantics.direction if self.semantics else None
        return DIRECTIONS.get(str(direction), Better.neither)


class Report(msgspec.Struct):
    """What is read of a report."""

    dataset_name: str
    model_name: str
    metrics: list[Metric]


class Score(msgspec.Struct):
    """How an answer was judged."""

    value: dict[str, Any] | None = None
    extracted_prediction: Any = None
    status: Any = "success"


class SampleScore(msgspec.Struct):
    """How the answer to a sample was judged."""

    score: Score
    group_id: int | str
    sample_metadata: dict[str, Any] | None = None


class Message(msgspec.Struct):
    """A message of a conversation."""

    role: Any = None
    content: Any = None


class Review(msgspec.Struct):
    """What is read of an answer."""

    sample_score: SampleScore
    messages: list[Message]
    target: Any = None


class Settings(msgspec.Struct):
    """The settings of a run."""

    generation_config: Any = None
    limit: Any = None
    repeats: Any = None
    evalscope_version: Any = "unknown"


REPORT: Parser[Report] = Parser(Report)
REVIEW: Parser[Review] = Parser(Review)


def recognises(_path: Path, outline: Outline) -> bool:
    """Whether a file is a report of evalscope."""
    return outline.has("dataset_name", "model_name", "metrics", "perf_metrics")


def read(path: Path, raw: bytes, cluster: str | None = None) -> ToolFile:
    """Return the evaluations of a report, one for each metric."""
    where = str(path)
    if path.parent.parent.name != REPORTS:
        raise DataError(
            f"its answers are found beside {REPORTS}/MODEL/: leave it in evalscope's folder",
            key=where,
            code="not_found",
        )
    report = REPORT.read(raw, where)
    dataset = report.dataset_name
    reviews = list(_reviews(path, report, cluster))
    settings = _settings(path.parents[2] / SETTINGS)
    runs, left_out = [], []
    for metric in dict.fromkeys(name for _, values in reviews for name in values):
        numbers = [as_number(values.get(metric)) for _, values in reviews]
        known = [number for number in numbers if number is not None]
        if len(known) < len(reviews):
            left_out.append(f"{dataset} {metric}")
            continue
        numbered = zip((sample for sample, _ in reviews), known, strict=True)
        samples = joined(replace(sample, number=number, solved=number == 1) for sample, number in numbered)
        check_samples_differ(path, samples)
        about = next(
            (metric_report for metric_report in report.metrics if metric_report.name == metric), None
        )
        _check_score(where, metric, about, known)
        is_verdict = all(number in (0, 1) for number in known)
        better = about.better if about else Better.neither
        runs.append(
            ToolRun(
                tool=TOOL,
                path=path,
                task=dataset,
                time=changed(path),
                params={
                    "model.name": report.model_name,
                    **params_of("generation", settings.generation_config),
                    **params_of("task", {"limit": settings.limit, "repeats": settings.repeats}),
                    "task.name": dataset,
                    METRIC: metric,
                },
                samples=samples,
                facts={"evalscope_version": str(settings.evalscope_version)},
                better=None if is_verdict and better is not Better.lower else better,
            )
        )
    return ToolFile(runs, left_out)


def _reviews(path: Path, report: Report, cluster: str | None) -> Iterator[tuple[ToolSample, dict[str, Any]]]:
    """Yield the answers of all subsets without their scores, each with its metrics."""
    subsets = {
        subset.name: subset.num
        for metric in report.metrics
        for category in metric.categories
        for subset in category.subsets
        if not subset.is_aggregate
    }
    if not subsets:
        raise DataError("it names no subset with answers", key=path, code="empty")
    for subset, expected in subsets.items():
        file = (
            path.parents[2]
            / REVIEWS
            / path.parent.name
            / file_name(f"{report.dataset_name}_{subset}.jsonl", path)
        )
        if not file.is_file():
            raise DataError(f"its answers, {file}, are not there", key=path, code="not_found")
        for where_line, line in lines_of(file, "answers", expected, str(path)):
            review = REVIEW.read(line, where_line)
            yield (
                _answer(review, subset if len(subsets) > 1 else "", cluster),
                review.sample_score.score.value or {},
            )


def _answer(review: Review, subset: str, cluster: str | None) -> ToolSample:
    """Return an answer without its score."""
    scored, target = review.sample_score, review.target
    extracted = scored.score.extracted_prediction
    family, fields = family_of(scored.sample_metadata, cluster)
    return ToolSample(
        f"{subset} {scored.group_id}".strip(),
        "\n".join(_texts(review.messages, ("system", "user"))),
        "\n".join(map(str, target)) if isinstance(target, list) else str(target),
        False,
        extracted if isinstance(extracted, str) else None,
        "\n".join(_texts(review.messages, ("assistant",)))[-LONGEST_TEXT:],
        scored.score.status != "success",
        cluster=family,
        fields=fields,
    )


def _texts(messages: list[Message], roles: tuple[str, ...]) -> Iterator[str]:
    for message in messages:
        if message.role in roles and isinstance(message.content, str):
            yield message.content


def _check_score(where: str, metric: str, about: Metric | None, numbers: list[float]) -> None:
    """Raise DataError if a mean is not the one in the report."""
    if about is None or about.identity is None or about.identity.aggregation != "mean":
        return
    mean = math.fsum(numbers) / len(numbers)
    if about.score is None or abs(mean - about.score) > ROUNDED:
        raise DataError(f"{metric} is {mean:.4f} over its answers, but the report says {about.score}: one of "
                        "them was changed", key=where, code="mismatch")  # fmt: skip


class _FewAliases(yaml.SafeLoader):
    """Reads YAML without what a few lines can make of it."""

    aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Count an alias before it is followed."""
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise yaml.YAMLError(f"more than {MAX_ALIASES} aliases")
        return super().compose_node(parent, index)


def _settings(file: Path) -> Settings:
    """Return the settings of a run; empty if the file is not there."""
    if not file.is_file():
        return Settings()
    raw = read_bytes(file)
    if len(raw) > MAX_SETTINGS_BYTES:
        raise DataError(f"larger than {MAX_SETTINGS_BYTES // MIB} MiB", key=file, code="too_large")
    try:
        loaded = yaml.load(raw, _FewAliases)
        # dates as texts, and nothing within itself
        content = json.loads(json.dumps(loaded, default=str, skipkeys=True))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"no YAML ({few(str(error).splitlines(), 1)})", key=file, code="damaged") from error
    settings: Settings = checked(content, Settings, str(file)) if isinstance(content, dict) else Settings()
    return settings

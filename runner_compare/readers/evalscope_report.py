"""Reader of reports and answers in evalscope's `work_dir`.

A report (`reports/MODEL/DATASET.json`) names model, data set and metrics. The answers are
in `reviews/MODEL/DATASET_SUBSET.jsonl`, the settings in `configs/task_config.yaml`. A
metric that is 0 or 1 for every answer is a verdict; any other one is compared as a number.
With `repeats`, a sample was answered several times.
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

from runner_base import DataError, join_first_names
from runner_compare.readers import (
    LONGEST_TEXT,
    METRIC,
    MIB,
    BetterDirection,
    Count,
    JsonOutline,
    Parser,
    ToolFile,
    ToolRun,
    ToolSample,
    convert_checked,
    flatten_params,
    get_sample_cluster,
    iter_lines_checking_count,
    merge_repeated_answers,
    modification_time,
    read_bytes,
    require_unique_sample_ids,
    to_finite_number,
    validate_file_name,
)

TOOL = "evalscope"
REPORTS, REVIEWS, SETTINGS = "reports", "reviews", Path("configs") / "task_config.yaml"
ROUNDED = 1e-4  # by which a score in a report may differ: it has four decimals
DIRECTIONS = {"higher_is_better": BetterDirection.higher, "lower_is_better": BetterDirection.lower}


# of YAML, in which ten aliases of ten aliases become anything
MAX_SETTINGS_BYTES, MAX_ALIASES = MIB, 20


class Subset(msgspec.Struct):
    name: str
    num: Count
    is_aggregate: Any = None


class Category(msgspec.Struct):
    subsets: list[Subset]


class Identity(msgspec.Struct):
    name: str | None = None
    aggregation: str | None = None


class Semantics(msgspec.Struct):
    direction: str | None = None


class Metric(msgspec.Struct):
    categories: list[Category]
    score: float | None = None
    identity: Identity | None = None
    semantics: Semantics | None = None

    @property
    def name(self) -> str | None:
        """Name of the metric in the stored answers."""
        return self.identity.name if self.identity else None

    @property
    def better_direction(self) -> BetterDirection:
        direction = self.semantics.direction if self.semantics else None
        return DIRECTIONS.get(str(direction), BetterDirection.neither)


class Report(msgspec.Struct):
    dataset_name: str
    model_name: str
    metrics: list[Metric]


class Score(msgspec.Struct):
    value: dict[str, Any] | None = None
    extracted_prediction: Any = None
    status: Any = "success"


class SampleScore(msgspec.Struct):
    score: Score
    group_id: int | str
    sample_metadata: dict[str, Any] | None = None


class Message(msgspec.Struct):
    role: Any = None
    content: Any = None


class Review(msgspec.Struct):
    sample_score: SampleScore
    messages: list[Message]
    target: Any = None


class Settings(msgspec.Struct):
    generation_config: Any = None
    limit: Any = None
    repeats: Any = None
    evalscope_version: Any = "unknown"


REPORT: Parser[Report] = Parser(Report)
REVIEW: Parser[Review] = Parser(Review)


def can_read_file(_path: Path, outline: JsonOutline) -> bool:
    return outline.has_fields("dataset_name", "model_name", "metrics", "perf_metrics")


def read_tool_file(path: Path, file_content: bytes, cluster_field: str | None = None) -> ToolFile:
    """Return the evaluations in an evalscope report, one per metric."""
    where = str(path)
    if path.parent.parent.name != REPORTS:
        raise DataError(
            f"the report is not in evalscope's {REPORTS}/MODEL/ folder, so its answers cannot be found",
            key=where,
            code="not_found",
        )
    report = REPORT.parse(file_content, where)
    dataset = report.dataset_name
    reviews = list(_iterate_reviewed_answers(path, report, cluster_field))
    settings = _load_settings(path.parents[2] / SETTINGS)
    runs, left_out = [], []
    for metric in dict.fromkeys(name for _, values in reviews for name in values):
        numbers = [to_finite_number(values.get(metric)) for _, values in reviews]
        known = [number for number in numbers if number is not None]
        if len(known) < len(reviews):
            left_out.append(f"{dataset} {metric}")
            continue
        numbered = zip((sample for sample, _ in reviews), known, strict=True)
        samples = merge_repeated_answers(
            replace(sample, number=number, solved=number == 1) for sample, number in numbered
        )
        require_unique_sample_ids(path, samples)
        about = next(
            (metric_report for metric_report in report.metrics if metric_report.name == metric), None
        )
        _check_reported_mean(where, metric, about, known)
        is_verdict = all(number in (0, 1) for number in known)
        better = about.better_direction if about else BetterDirection.neither
        runs.append(
            ToolRun(
                tool=TOOL,
                path=path,
                task=dataset,
                time=modification_time(path),
                params={
                    "model.name": report.model_name,
                    **flatten_params("generation", settings.generation_config),
                    **flatten_params("task", {"limit": settings.limit, "repeats": settings.repeats}),
                    "task.name": dataset,
                    METRIC: metric,
                },
                samples=samples,
                facts={"evalscope_version": str(settings.evalscope_version)},
                better=None if is_verdict and better is not BetterDirection.lower else better,
            )
        )
    return ToolFile(runs, left_out)


def _iterate_reviewed_answers(
    path: Path, report: Report, cluster_field: str | None
) -> Iterator[tuple[ToolSample, dict[str, Any]]]:
    """Yield the answers of all subsets, each with its metrics. Answers have no verdict yet."""
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
            / validate_file_name(f"{report.dataset_name}_{subset}.jsonl", path)
        )
        if not file.is_file():
            raise DataError(f"its answers, {file}, are not there", key=path, code="not_found")
        for where_line, line in iter_lines_checking_count(file, "answers", expected, str(path)):
            review = REVIEW.parse(line, where_line)
            yield (
                _create_sample(review, subset if len(subsets) > 1 else "", cluster_field),
                review.sample_score.score.value or {},
            )


def _create_sample(review: Review, subset: str, cluster_field: str | None) -> ToolSample:
    scored, target = review.sample_score, review.target
    extracted = scored.score.extracted_prediction
    family, fields = get_sample_cluster(scored.sample_metadata, cluster_field)
    return ToolSample(
        f"{subset} {scored.group_id}".strip(),
        "\n".join(_iter_message_texts(review.messages, ("system", "user"))),
        "\n".join(map(str, target)) if isinstance(target, list) else str(target),
        False,
        extracted if isinstance(extracted, str) else None,
        "\n".join(_iter_message_texts(review.messages, ("assistant",)))[-LONGEST_TEXT:],
        scored.score.status != "success",
        cluster=family,
        fields=fields,
    )


def _iter_message_texts(messages: list[Message], roles: tuple[str, ...]) -> Iterator[str]:
    for message in messages:
        if message.role in roles and isinstance(message.content, str):
            yield message.content


def _check_reported_mean(
    source: str, metric: str, metric_definition: Metric | None, numbers: list[float]
) -> None:
    """Raise DataError if the mean of the answers differs from the mean in the report."""
    if (
        metric_definition is None
        or metric_definition.identity is None
        or metric_definition.identity.aggregation != "mean"
    ):
        return
    mean = math.fsum(numbers) / len(numbers)
    if metric_definition.score is None or abs(mean - metric_definition.score) > ROUNDED:
        raise DataError(
            f"{metric} is {mean:.4f} over the answers, but {metric_definition.score} in the report. "
            "The answers or the report were changed",
            key=source,
            code="mismatch",
        )


class _AliasLimitedLoader(yaml.SafeLoader):
    """YAML loader that limits the number of aliases, because nested aliases can expand without bound."""

    aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a YAML node. Every alias counts towards the limit."""
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise yaml.YAMLError(f"more than {MAX_ALIASES} aliases")
        return super().compose_node(parent, index)


def _load_settings(file: Path) -> Settings:
    """Load the settings of an evalscope run. Empty if the settings file is missing."""
    if not file.is_file():
        return Settings()
    file_content = read_bytes(file)
    if len(file_content) > MAX_SETTINGS_BYTES:
        raise DataError(f"larger than {MAX_SETTINGS_BYTES // MIB} MiB", key=file, code="too_large")
    try:
        loaded = yaml.load(file_content, _AliasLimitedLoader)
        # dates as texts, and nothing within itself
        content = json.loads(json.dumps(loaded, default=str, skipkeys=True))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(
            f"no YAML ({join_first_names(str(error).splitlines(), 1)})", key=file, code="damaged"
        ) from error
    settings: Settings = (
        convert_checked(content, Settings, str(file)) if isinstance(content, dict) else Settings()
    )
    return settings

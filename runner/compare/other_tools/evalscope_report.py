"""Reads what evalscope writes into its `work_dir`.

A report (`reports/MODEL/DATASET.json`) names model, data set and metrics. The answers are in
`reviews/MODEL/DATASET_SUBSET.jsonl`, the settings in `configs/task_config.yaml`. A metric that is 0 or 1 for every
answer is a verdict; any other one is compared as a number. With `repeats`, a sample was answered several times.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from runner.compare.other_tools.files import changed, field_of, lines_of, parse, read_bytes
from runner.compare.other_tools.several_answers import joined
from runner.compare.other_tools.shapes import Outline
from runner.compare.other_tools.tool_run import (
    LONGEST_TEXT,
    METRIC,
    ToolFile,
    ToolRun,
    ToolSample,
    as_number,
    check_samples_differ,
    family_of,
    params_of,
)
from runner.core.errors import DataError, few
from runner.core.metrics import Better

TOOL = "evalscope"
REPORTS, REVIEWS, SETTINGS = "reports", "reviews", Path("configs") / "task_config.yaml"
ROUNDED = 1e-4  # by which a score in a report may differ: it has four decimals
DIRECTIONS = {"higher_is_better": Better.higher, "lower_is_better": Better.lower}


def recognises(_path: Path, outline: Outline) -> bool:
    """Whether a file is a report of evalscope."""
    return outline.has("dataset_name", "model_name", "metrics", "perf_metrics")


def read(path: Path, raw: bytes, cluster: str | None = None) -> ToolFile:
    """Return the evaluations of a report, one for each metric."""
    content = parse(raw, str(path))
    where, dataset = str(path), field_of(content, "dataset_name", str, str(path))
    if path.parent.parent.name != REPORTS:
        raise DataError(f"{where}: its answers are found beside {REPORTS}/MODEL/: leave it in evalscope's folder")
    about = field_of(content, "metrics", list, where)
    reviews = list(_reviews(path, dataset, about, where))
    settings = _settings(path.parents[2] / SETTINGS)
    runs, left_out = [], []
    for metric in dict.fromkeys(name for _, row in reviews for name in _values(row)):
        answers = [_answer(place, row, metric, cluster) for place, row in reviews]
        if any(one.number is None for one in answers):
            left_out.append(f"{dataset} {metric}")
            continue
        samples = joined(answers)
        check_samples_differ(path, samples)
        of_report = next((it for it in about if _name(it) == metric), None)
        _check_score(where, metric, of_report, [one.number or 0.0 for one in answers])
        is_verdict = all(one.number in (0, 1) for one in answers)
        better = _better(of_report)
        runs.append(
            ToolRun(
                tool=TOOL,
                path=path,
                task=dataset,
                time=changed(path),
                params={
                    "model.name": field_of(content, "model_name", str, where),
                    **params_of("generation", settings.get("generation_config")),
                    **params_of("task", {"limit": settings.get("limit"), "repeats": settings.get("repeats")}),
                    "task.name": dataset,
                    METRIC: metric,
                },
                samples=samples,
                facts={"evalscope_version": str(settings.get("evalscope_version", "unknown"))},
                better=None if is_verdict and better is not Better.lower else better,
            )
        )
    return ToolFile(runs, left_out)


def _reviews(path: Path, dataset: str, about: list[Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the answers of all subsets, each with its place for messages."""
    subsets = {
        field_of(subset, "name", str, where): field_of(subset, "num", int, where)
        for metric in about
        for category in field_of(metric, "categories", list, where)
        for subset in field_of(category, "subsets", list, where)
        if not subset.get("is_aggregate")
    }
    if not subsets:
        raise DataError(f"{where}: it names no subset with answers")
    for subset, expected in subsets.items():
        file = path.parents[2] / REVIEWS / path.parent.name / f"{dataset}_{subset}.jsonl"
        if not file.is_file():
            raise DataError(f"{where}: its answers, {file}, are not there")
        for place, row in lines_of(file, "answers", expected, where):
            yield place, row | {"subset": subset if len(subsets) > 1 else ""} if isinstance(row, dict) else {}


def _values(row: dict[str, Any]) -> dict[str, Any]:
    score = row.get("sample_score")
    score = score.get("score") if isinstance(score, dict) else None
    values = score.get("value") if isinstance(score, dict) else None
    return values if isinstance(values, dict) else {}


def _answer(place: str, row: dict[str, Any], metric: str, cluster: str | None) -> ToolSample:
    score = field_of(row, "sample_score", dict, place)
    judged, messages = field_of(score, "score", dict, place), field_of(row, "messages", list, place)
    asked, said = ("\n".join(_texts(messages, roles)) for roles in (("system", "user"), ("assistant",)))
    extracted = judged.get("extracted_prediction")
    number = as_number(_values(row).get(metric))
    target = row.get("target")
    family, fields = family_of(score.get("sample_metadata"), cluster)
    sample_id = f"{row['subset']} {field_of(score, 'group_id', (int, str), place)}".strip()
    return ToolSample(
        sample_id,
        asked,
        "\n".join(map(str, target)) if isinstance(target, list) else str(target),
        number == 1,
        extracted if isinstance(extracted, str) else None,
        said[-LONGEST_TEXT:],
        judged.get("status", "success") != "success",
        number=number,
        cluster=family,
        fields=fields,
    )


def _texts(messages: list[Any], roles: tuple[str, ...]) -> Iterator[str]:
    for one in messages:
        if isinstance(one, dict) and one.get("role") in roles and isinstance(one.get("content"), str):
            yield one["content"]


def _name(metric: Any) -> Any:
    identity = metric.get("identity") if isinstance(metric, dict) else None
    return identity.get("name") if isinstance(identity, dict) else None


def _better(metric: Any) -> Better:
    semantics = metric.get("semantics") if isinstance(metric, dict) else None
    direction = semantics.get("direction") if isinstance(semantics, dict) else None
    return DIRECTIONS.get(str(direction), Better.neither)


def _check_score(where: str, metric: str, of_report: Any, numbers: list[float]) -> None:
    """Raise DataError if a mean is not the one in the report."""
    if of_report is None or of_report["identity"].get("aggregation") != "mean":
        return
    mean, logged = sum(numbers) / len(numbers), field_of(of_report, "score", (int, float), where)
    if abs(mean - logged) > ROUNDED:
        raise DataError(f"{where}: {metric} is {mean:.4f} over its answers, but the report says {logged}: one of "
                        "them was changed")  # fmt: skip


def _settings(file: Path) -> dict[str, Any]:
    """Return the settings of a run; empty if the file is not there."""
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(read_bytes(file))
    except yaml.YAMLError as error:
        raise DataError(f"{file}: no YAML ({few(str(error).splitlines(), 1)})") from error
    return content if isinstance(content, dict) else {}
